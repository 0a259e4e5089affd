# Completion of lossd for bash, as `lossd completion` prints it.
_lossd() {
    local word=${COMP_WORDS[COMP_CWORD]} words=
    local losses='adr_mse bce_with_logits composite contrastive cosent cosine_embedding cosine_similarity cpo cross_entropy ctc distillation dpo gae gaussian_nll group_advantages hinge_embedding huber info_nce kl_div kto lambda_rank late_interaction linear_cross_entropy linear_kl linear_token_logprobs list_mle log_cosh mae margin_mse margin_ranking margin_softmax mask_tokens masked_lm mse multi_margin multilabel_margin multilabel_soft_margin nll nt_xent orpo pairwise_logistic pointer_generator poisson_nll policy_gradient quantile rnnt router_balance router_z sequence_cross_entropy siglip sigmoid_focal simpo sliding_window_cross_entropy smooth_l1 soft_margin span supcon token_logprobs topk_distillation triplet uld value_clip'
    local flags='--listen --workers --loops --max-body --memory-budget --queue-limit --inline-limit --max-connections --request-timeout --header-timeout --body-timeout --body-rate --idle-timeout --drain-max --drain-delay --drain-timeout --api-key-file --api-key-exempt --tls-cert --tls-key --tls-client-ca --cors-origin --region --region-budget --client-shm --isa --log-format --log-level'
    case ${COMP_WORDS[COMP_CWORD - 1]} in
    --api-key-file | --tls-cert | --tls-key | --tls-client-ca) COMPREPLY=($(compgen -f -- "$word")); return ;;
    --api-key-exempt) words='none health health,metrics' ;;
    --log-format) words='text json' ;;
    --log-level) words='error warn info debug' ;;
    --listen | --workers | --loops | --max-body | --memory-budget | --queue-limit | --inline-limit | --max-connections | --request-timeout | --header-timeout | --body-timeout | --body-rate | --idle-timeout | --drain-max | --drain-delay | --drain-timeout | --api-key-file | --api-key-exempt | --tls-cert | --tls-key | --tls-client-ca | --cors-origin | --region | --region-budget | --client-shm | --isa | --log-format | --log-level) return ;;
    *)
        case $COMP_CWORD:${COMP_WORDS[1]} in
        1:-* | *:-*) words="$flags --help" ;;
        1:*) words='serve eval describe openapi health manual completion version' ;;
        *:serve) words="$flags" ;;
        2:eval) words=$losses ;;
        *:eval) words="--lines $(compgen -f -- "$word") $flags" ;;
        2:describe) words=$losses ;;
        *:describe) words="--json --markdown --example" ;;
        *:health) words="--url" ;;
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -F _lossd lossd
