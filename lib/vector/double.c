/* SPDX-License-Identifier: MIT
 *
 * See vector/double.h. A function is computed from a table and a polynomial, so that only the last
 * sum rounds at full weight: it is of a large part and a small one, and what the large part's own
 * sum drops is kept and goes into the small one. No product is fused with a sum.
 */
#include "vector/double.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

_Static_assert(FLT_EVAL_METHOD == 0, "every operation must round to its type: not x87");
#if defined(__FAST_MATH__)
#error "compiled with -ffast-math, sums would have another order"
#endif

#define INLINE static inline __attribute__((always_inline))

enum { FRACTION_BITS = 52 };
static const double round_up = 0x1.8p+52; /* what is added to it is rounded to an integer */
static const double infinity = (double)INFINITY, not_a_number = (double)NAN;

INLINE uint64_t bits_of(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

INLINE double double_of(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* x without the lower half of its digits: the product of two such is exact. */
INLINE double upper_half(double x)
{
    return double_of(bits_of(x) & ~UINT64_C(0x7ffffff));
}

/* e^x = 2^n e^r, where n is a multiple of 1/128 and |r| <= ln(2)/256. */

enum { EXP_BITS = 7, EXP_STEPS = 1 << EXP_BITS };

/* 2^(i/128), and by what share of it the exact value is greater. */
static const struct power {
    double value, missing;
} powers[EXP_STEPS] = {
    {0x1p+0, 0},
    {0x1.0163da9fb3335p+0, 0x1.b3b4f1a88bf6ep-54},
    {0x1.02c9a3e778061p+0, -0x1.160139cd8dc5dp-56},
    {0x1.04315e86e7f85p+0, -0x1.05e7a108766d1p-54},
    {0x1.059b0d3158574p+0, 0x1.cd2523567f613p-55},
    {0x1.0706b29ddf6dep+0, -0x1.bce8023f98efap-55},
    {0x1.0874518759bc8p+0, 0x1.0f74e61e6c861p-57},
    {0x1.09e3ecac6f383p+0, 0x1.0a3e45b33d399p-54},
    {0x1.0b5586cf9890fp+0, 0x1.79aa65d837b6dp-54},
    {0x1.0cc922b7247f7p+0, 0x1.eb51a92fdeffcp-55},
    {0x1.0e3ec32d3d1a2p+0, 0x1.ebe3d702f9cd1p-60},
    {0x1.0fb66affed31bp+0, -0x1.a033489906e0bp-57},
    {0x1.11301d0125b51p+0, -0x1.556522a2fbd0ep-54},
    {0x1.12abdc06c31ccp+0, -0x1.080ef8c4eea55p-58},
    {0x1.1429aaea92dep+0, -0x1.1c923b9d5f416p-54},
    {0x1.15a98c8a58e51p+0, 0x1.0d3e3e95c55afp-55},
    {0x1.172b83c7d517bp+0, -0x1.01b15eaa59348p-55},
    {0x1.18af9388c8deap+0, -0x1.f1ff055de323dp-55},
    {0x1.1a35beb6fcb75p+0, 0x1.b898c3f1353bfp-55},
    {0x1.1bbe084045cd4p+0, -0x1.6d99c7611eb26p-54},
    {0x1.1d4873168b9aap+0, 0x1.aecf73e3a2f6p-54},
    {0x1.1ed5022fcd91dp+0, -0x1.fe782cb86389dp-55},
    {0x1.2063b88628cd6p+0, 0x1.a6f4144a6c38dp-55},
    {0x1.21f49917ddc96p+0, 0x1.07a05b0e4047dp-55},
    {0x1.2387a6e756238p+0, 0x1.68efde3a8a894p-54},
    {0x1.251ce4fb2a63fp+0, 0x1.75e18f274487dp-55},
    {0x1.26b4565e27cddp+0, 0x1.0472b981fe7f2p-55},
    {0x1.284dfe1f56381p+0, -0x1.6b87b3f71085ep-54},
    {0x1.29e9df51fdee1p+0, 0x1.2f7e16d09ab31p-55},
    {0x1.2b87fd0dad99p+0, -0x1.d219b1a6fbffap-60},
    {0x1.2d285a6e4030bp+0, 0x1.b3782720c0ab4p-55},
    {0x1.2ecafa93e2f56p+0, 0x1.e149289cecb8fp-57},
    {0x1.306fe0a31b715p+0, 0x1.34d754db0abb6p-55},
    {0x1.32170fc4cd831p+0, 0x1.64201e2ac744cp-55},
    {0x1.33c08b26416ffp+0, 0x1.fdd395dd3f84ap-55},
    {0x1.356c55f929ff1p+0, -0x1.6a3803b8e5b04p-55},
    {0x1.371a7373aa9cbp+0, -0x1.24aedcc4b5068p-54},
    {0x1.38cae6d05d866p+0, -0x1.907f81b512d8ep-54},
    {0x1.3a7db34e59ff7p+0, -0x1.1d1e83e9436d2p-56},
    {0x1.3c32dc313a8e5p+0, -0x1.91919b3ce1b15p-54},
    {0x1.3dea64c123422p+0, 0x1.59f48a72a4c6dp-55},
    {0x1.3fa4504ac801cp+0, -0x1.312607a28698ap-54},
    {0x1.4160a21f72e2ap+0, -0x1.8a78f4817895bp-58},
    {0x1.431f5d950a897p+0, -0x1.c2c9b67499a1bp-56},
    {0x1.44e086061892dp+0, 0x1.363ed60c2ac11p-59},
    {0x1.46a41ed1d0057p+0, 0x1.666093b0664efp-54},
    {0x1.486a2b5c13cdp+0, 0x1.ecce1daa10379p-57},
    {0x1.4a32af0d7d3dep+0, 0x1.3ff8e3f0f123p-54},
    {0x1.4bfdad5362a27p+0, 0x1.690cebb7aafbp-56},
    {0x1.4dcb299fddd0dp+0, 0x1.31dbdeb54e077p-54},
    {0x1.4f9b2769d2ca7p+0, -0x1.f94340071a38ep-55},
    {0x1.516daa2cf6642p+0, -0x1.7deccdc93a349p-55},
    {0x1.5342b569d4f82p+0, -0x1.8dec6bd0f385fp-56},
    {0x1.551a4ca5d920fp+0, -0x1.61246ec7b5cf6p-55},
    {0x1.56f4736b527dap+0, 0x1.3350518fdd78ep-54},
    {0x1.58d12d497c7fdp+0, 0x1.b98b72f8a9b05p-56},
    {0x1.5ab07dd485429p+0, 0x1.063e1e21c5409p-54},
    {0x1.5c9268a5946b7p+0, 0x1.4c7855019c6eap-60},
    {0x1.5e76f15ad2148p+0, 0x1.432e62b64c035p-54},
    {0x1.605e1b976dc09p+0, -0x1.ce44a6199769fp-55},
    {0x1.6247eb03a5585p+0, -0x1.c33c53bef4da8p-55},
    {0x1.6434634ccc32p+0, -0x1.45378892be9aep-55},
    {0x1.6623882552225p+0, -0x1.3cedd78565858p-54},
    {0x1.68155d44ca973p+0, 0x1.710aa807e1964p-58},
    {0x1.6a09e667f3bcdp+0, -0x1.3b3efbf5e2228p-54},
    {0x1.6c012750bdabfp+0, -0x1.a12ad8734b982p-57},
    {0x1.6dfb23c651a2fp+0, -0x1.367efb86da9eep-57},
    {0x1.6ff7df9519484p+0, -0x1.0dc3d54e08851p-55},
    {0x1.71f75e8ec5f74p+0, -0x1.81f647e5a3ecfp-56},
    {0x1.73f9a48a58174p+0, -0x1.6ee4ac08b7dbp-55},
    {0x1.75feb564267c9p+0, -0x1.619321e55e68ap-55},
    {0x1.780694fde5d3fp+0, 0x1.09ccb5e09d4d3p-54},
    {0x1.7a11473eb0187p+0, -0x1.b32dcb94da51dp-56},
    {0x1.7c1ed0130c132p+0, 0x1.4ecfd5467c06bp-54},
    {0x1.7e2f336cf4e62p+0, 0x1.5ebe1abd66c55p-57},
    {0x1.80427543e1a12p+0, -0x1.8a1c52fb3cf42p-55},
    {0x1.82589994cce13p+0, -0x1.369b6f13b3734p-54},
    {0x1.8471a4623c7adp+0, -0x1.05e843a19ff1ep-55},
    {0x1.868d99b4492edp+0, -0x1.4d450d872576ep-54},
    {0x1.88ac7d98a6699p+0, 0x1.0ad675b0e8ap-54},
    {0x1.8ace5422aa0dbp+0, 0x1.db72fc1f0eab4p-55},
    {0x1.8cf3216b5448cp+0, -0x1.5b6609cc5e7ffp-57},
    {0x1.8f1ae99157736p+0, 0x1.bf68359f35f44p-56},
    {0x1.9145b0b91ffc6p+0, -0x1.3091fa71e3d83p-54},
    {0x1.93737b0cdc5e5p+0, -0x1.da9b88b6c1e29p-58},
    {0x1.95a44cbc8520fp+0, -0x1.c23f97c90b959p-57},
    {0x1.97d829fde4e5p+0, -0x1.2434322f4f9aap-54},
    {0x1.9a0f170ca07bap+0, -0x1.5ca6cd7668e4bp-55},
    {0x1.9c49182a3f09p+0, 0x1.1affc2b91ce27p-56},
    {0x1.9e86319e32323p+0, 0x1.dd235e10a73bbp-57},
    {0x1.a0c667b5de565p+0, -0x1.7c50422622263p-55},
    {0x1.a309bec4a2d33p+0, 0x1.b1c86e3e231d5p-55},
    {0x1.a5503b23e255dp+0, -0x1.1bbd1d3bcbb15p-54},
    {0x1.a799e1330b358p+0, 0x1.0cc319cee31d2p-54},
    {0x1.a9e6b5579fdbfp+0, 0x1.469846e735ab3p-55},
    {0x1.ac36bbfd3f37ap+0, -0x1.2dfcd978e9db4p-55},
    {0x1.ae89f995ad3adp+0, 0x1.c1a7792cb3387p-55},
    {0x1.b0e07298db666p+0, -0x1.07b8f4ad1d9fap-54},
    {0x1.b33a2b84f15fbp+0, -0x1.5c3d956dcaebap-58},
    {0x1.b59728de5593ap+0, -0x1.0a40e3da6f64p-54},
    {0x1.b7f76f2fb5e47p+0, -0x1.8d6f438ad9334p-57},
    {0x1.ba5b030a1064ap+0, -0x1.1eee26b588a35p-54},
    {0x1.bcc1e904bc1d2p+0, 0x1.4ffd70a5fddcdp-56},
    {0x1.bf2c25bd71e09p+0, -0x1.1bdfbfa9298acp-54},
    {0x1.c199bdd85529cp+0, 0x1.36eae30af0cb3p-56},
    {0x1.c40ab5fffd07ap+0, 0x1.ee3325c9ffd94p-55},
    {0x1.c67f12e57d14bp+0, 0x1.4e08fd10959acp-55},
    {0x1.c8f6d9406e7b5p+0, 0x1.3cdaf384e1a67p-57},
    {0x1.cb720dcef9069p+0, 0x1.76b2c6c921968p-57},
    {0x1.cdf0b555dc3fap+0, -0x1.08a1883ccb5d2p-55},
    {0x1.d072d4a07897cp+0, -0x1.fad5d3ffffa6fp-55},
    {0x1.d2f87080d89f2p+0, -0x1.00dae3875a949p-54},
    {0x1.d5818dcfba487p+0, 0x1.4a385a63d07a7p-56},
    {0x1.d80e316c98398p+0, -0x1.2919e2040220fp-55},
    {0x1.da9e603db3285p+0, 0x1.e5a50d5c192acp-55},
    {0x1.dd321f301b46p+0, 0x1.43a59ac016b4bp-55},
    {0x1.dfc97337b9b5fp+0, -0x1.2d52107b43e1fp-55},
    {0x1.e264614f5a129p+0, -0x1.92ab93b470dc9p-55},
    {0x1.e502ee78b3ff6p+0, 0x1.4b604603a88d3p-56},
    {0x1.e7a51fbc74c83p+0, 0x1.3c5ec519d7271p-55},
    {0x1.ea4afa2a490dap+0, -0x1.ff7128fd391fp-55},
    {0x1.ecf482d8e67f1p+0, -0x1.dae98e223747dp-55},
    {0x1.efa1bee615a27p+0, 0x1.ec3bc41aa2008p-55},
    {0x1.f252b376bba97p+0, 0x1.42b94c3a9eb32p-55},
    {0x1.f50765b6e454p+0, 0x1.a64a931d185eep-55},
    {0x1.f7bfdad9cbe14p+0, -0x1.e37bae43be3edp-55},
    {0x1.fa7c1819e90d8p+0, 0x1.7893b4d91cd9dp-56},
    {0x1.fd3c22b8f71f1p+0, 0x1.305c14160cc89p-58},
};

typedef struct reduced {
    double r, r_low;          /* r in two parts */
    const struct power *step; /* of the fraction of n */
    int64_t exponent;         /* the whole part of n */
} reduced;

/* Of x + tail, for a small tail. */
INLINE reduced reduce(double x, double tail)
{
    /* ln(2)/128 in two parts, of which the first has trailing zeros enough for exact products. */
    const double high = 0x1.62e42fefcp-8, low = -0x1.c610ca86c3899p-44;
    const double rounded = x * 0x1.71547652b82fep+7 + round_up, n = rounded - round_up;
    const double r_high = x - n * high, r_rest = n * low - tail, r = r_high - r_rest;
    /* The low bits of the sum are those of the integer. */
    const int64_t steps = (int64_t)(bits_of(rounded) - bits_of(round_up));
    return (reduced){r, (r_high - r) - r_rest, &powers[steps & (EXP_STEPS - 1)], steps >> EXP_BITS};
}

/* e^r - 1 - r, within 2^-56 r. */
INLINE double exp_rest(double r)
{
    const double square = r * r;
    const double low = 0x1.ffffffffffe5cp-2 + r * 0x1.5555555555459p-3;
    const double high = 0x1.55555c2a86e6ap-5 + r * 0x1.1111163d66b9bp-7;
    return square * low + square * square * high;
}

/* 2^exponent times a number from 1/2 to 4; the result is normal. */
INLINE double scaled(double x, int64_t exponent)
{
    return double_of(bits_of(x) + ((uint64_t)exponent << FRACTION_BITS));
}

/* e^(x + tail) for a small tail, where the result may be subnormal or infinite. */
static __attribute__((noinline)) double exp_far(double x, double tail)
{
    if (!(fabs(x) < 1000))
        return x < 0 ? 0 : x * infinity; /* NaN stays */
    const reduced e = reduce(x, tail);
    const double value = e.step->value, rest = (e.step->missing + e.r) + exp_rest(e.r);
    const int64_t half = e.exponent / 2;
    return (value + value * rest) * scaled(1, half) * scaled(1, e.exponent - half);
}

INLINE double exp_of_sum(double x, double tail)
{
    if (!(fabs(x) < 700))
        return exp_far(x, tail);
    const reduced e = reduce(x, tail);
    const double value = scaled(e.step->value, e.exponent);
    return value + value * ((e.step->missing + e.r) + exp_rest(e.r));
}

double lk_exp(double x)
{
    return exp_of_sum(x, 0);
}

double lk_expm1(double x)
{
    if (fabs(x) < 0x1p-54) /* and -0 */
        return x;
    if (!(x < 50)) /* the 1 is far below the last place; or NaN */
        return lk_exp(x);
    if (x < -50)
        return -1;
    /* 2^n e^r - 1 = (2^n - 1) + r + (2^n - 1) r + 2^n (e^r - 1 - r) */
    const reduced e = reduce(x, 0);
    const double power = scaled(e.step->value, e.exponent);
    const double less = power - 1, taken = power - less;
    const double dropped = (power - (less + taken)) + (taken - 1);
    const double sum = less + e.r, sum_dropped = (less - sum) + e.r;
    const double rest = power * ((e.step->missing * (1 + e.r) + e.r_low) + exp_rest(e.r));
    return sum + (((sum_dropped + dropped) + less * e.r) + rest);
}

/* log x = n ln 2 + log c + log(1 + r), where c is near 2^-n x, 1/c has 10 binary digits, and |r| is
 * below 2^-6.87. Near 1, n and log c are 0. */

enum { LOG_BITS = 6, LOG_STEPS = 1 << LOG_BITS };
#define LOG_FIRST UINT64_C(0x3fe6e00000000000) /* the bits of the least 2^-n x, 0.715 */

/* 1/c, and log c in two parts, of which the first is a multiple of 2^-42. */
static const struct logarithm {
    double inverse, high, low;
} logarithms[LOG_STEPS] = {
    {0x1.64p+0, -0x1.51aad872ep-2, 0x1.f4bd8db0a7cc1p-44},
    {0x1.608p+0, -0x1.478cd5959bp-2, -0x1.ec89bf0c8d098p-45},
    {0x1.5c8p+0, -0x1.3bdd24eb15p-2, 0x1.257b4970e6ed9p-44},
    {0x1.59p+0, -0x1.31871c9544p-2, -0x1.84fab94cecfd9p-46},
    {0x1.558p+0, -0x1.27161913f8p-2, -0x1.4f4f1f61564b4p-44},
    {0x1.52p+0, -0x1.1c898c169ap-2, 0x1.81410e5c62affp-44},
    {0x1.4e8p+0, -0x1.11e0e2dadap-2, 0x1.a47f88fcce5bap-45},
    {0x1.4bp+0, -0x1.071b85fcd6p-2, 0x1.bcb8ba3e01a11p-44},
    {0x1.478p+0, -0x1.f871b28956p-3, 0x1.f75fd6a526efep-44},
    {0x1.448p+0, -0x1.e598ed5a88p-3, 0x1.d134bcf1e98a1p-47},
    {0x1.418p+0, -0x1.d293581b6cp-3, 0x1.83270128aaa5fp-44},
    {0x1.3ep+0, -0x1.bc286742d8p-3, -0x1.9ac53f39d121cp-44},
    {0x1.3bp+0, -0x1.a8becfc882p-3, -0x1.e3185cf21b9cfp-44},
    {0x1.38p+0, -0x1.9525a9cf46p-3, 0x1.297137d9f158fp-44},
    {0x1.35p+0, -0x1.815c0a1436p-3, 0x1.02a52f9201ce8p-44},
    {0x1.32p+0, -0x1.6d60fe719ep-3, 0x1.bc6e557134767p-44},
    {0x1.2f8p+0, -0x1.5c94007598p-3, 0x1.a8d948cd23322p-44},
    {0x1.2c8p+0, -0x1.483bccce6ep-3, -0x1.eea52723f6369p-46},
    {0x1.2ap+0, -0x1.371fc201e8p-3, -0x1.ee8779b2d8abcp-44},
    {0x1.27p+0, -0x1.2266f190a6p-3, 0x1.4d20ab840e7f6p-45},
    {0x1.248p+0, -0x1.10f8e42254p-3, 0x1.93b3843396307p-45},
    {0x1.22p+0, -0x1.fec9131dcp-4, 0x1.54555d1ae6607p-44},
    {0x1.1f8p+0, -0x1.db5270187cp-4, -0x1.9277856ae181fp-44},
    {0x1.1dp+0, -0x1.b78c82bb1p-4, 0x1.25ef7bc3987e7p-44},
    {0x1.1a8p+0, -0x1.9375e55594p-4, -0x1.eddc37380c364p-44},
    {0x1.18p+0, -0x1.6f0d28ae58p-4, 0x1.4b4641b664613p-44},
    {0x1.158p+0, -0x1.4a50d3aa1cp-4, 0x1.f7fe1308973e2p-45},
    {0x1.138p+0, -0x1.2cb0283f5cp-4, -0x1.e1ee2ca657021p-44},
    {0x1.11p+0, -0x1.075983599p-4, 0x1.b8ecfe4b59987p-44},
    {0x1.0fp+0, -0x1.d276b8adbp-5, -0x1.6a423c78a64bp-46},
    {0x1.0c8p+0, -0x1.868a83084p-5, 0x1.2623a134ac693p-46},
    {0x1.0a8p+0, -0x1.494acc34d8p-5, -0x1.11c78a56fd247p-45},
    {0x1.088p+0, -0x1.0b94f7c198p-5, 0x1.e89896f022783p-45},
    {0x1.06p+0, -0x1.7b91b07d6p-6, 0x1.3b955b602ace4p-44},
    {0x1.04p+0, -0x1.fc0a8b0fcp-7, -0x1.f1e7cf6d3a69cp-50},
    {0x1.02p+0, -0x1.fe02a6b1p-8, -0x1.9e23f0dda40e4p-46},
    {0x1p+0, 0, 0},
    {0x1.f8p-1, 0x1.020565893p-6, 0x1.611d27c8e8417p-44},
    {0x1.fp-1, 0x1.0415d89e78p-5, -0x1.dddc7f461c516p-44},
    {0x1.e9p-1, 0x1.788595a358p-5, -0x1.08b0d083b3a4cp-46},
    {0x1.e2p-1, 0x1.eea31c0068p-5, 0x1.c3dd83606d891p-44},
    {0x1.dbp-1, 0x1.333d7f8184p-4, -0x1.692b6a81b8848p-49},
    {0x1.d4p-1, 0x1.700d30aeacp-4, 0x1.c1e8da99ded32p-49},
    {0x1.cep-1, 0x1.a4e7640b1cp-4, -0x1.e42b6b94407c8p-47},
    {0x1.c7p-1, 0x1.e3707ee304p-4, 0x1.0f684e6766abdp-45},
    {0x1.c1p-1, 0x1.0ce7ecdcccp-3, 0x1.4652dabff5447p-46},
    {0x1.bbp-1, 0x1.28753bc11ap-3, 0x1.7494e359302e6p-44},
    {0x1.b5p-1, 0x1.4462b9dc9cp-3, -0x1.84858a711b062p-44},
    {0x1.afp-1, 0x1.60b3100b0ap-3, -0x1.71456c988f814p-44},
    {0x1.aap-1, 0x1.7898d85444p-3, 0x1.8e67be3dbaf3fp-44},
    {0x1.a4p-1, 0x1.95a5adcf7p-3, 0x1.7f22858a0ff6fp-47},
    {0x1.9fp-1, 0x1.ae2ca6f672p-3, 0x1.7a8d5ae54f55p-44},
    {0x1.9ap-1, 0x1.c6ffbc6fp-3, 0x1.ee138d3a69d43p-44},
    {0x1.95p-1, 0x1.e020cc6236p-3, -0x1.52b00adb91424p-45},
    {0x1.9p-1, 0x1.f991c6cb3cp-3, -0x1.90d04cd7cc834p-44},
    {0x1.8bp-1, 0x1.09aa572e6cp-2, 0x1.b50a1e1734342p-44},
    {0x1.86p-1, 0x1.16b5ccbadp-2, -0x1.23299042d74bfp-44},
    {0x1.82p-1, 0x1.214456d0ecp-2, -0x1.caf0428b728a3p-44},
    {0x1.7dp-1, 0x1.2e9e2bce12p-2, 0x1.4300c128d1dc2p-45},
    {0x1.79p-1, 0x1.396ce359bcp-2, -0x1.5839c5663663dp-47},
    {0x1.74p-1, 0x1.4718dc271cp-2, 0x1.06c18fb4c14c5p-44},
    {0x1.7p-1, 0x1.522ae0738ap-2, 0x1.ebe708164c759p-45},
    {0x1.6cp-1, 0x1.5d5bddf596p-2, -0x1.a0b2a08a465dcp-47},
    {0x1.68p-1, 0x1.68ac83e9c7p-2, -0x1.7af966c548a3p-44},
};

/* A logarithm without -r^2/2 and what follows. */
typedef struct log_parts {
    double sum, dropped; /* n ln 2 + log c + r */
    double r, r_low;     /* r in two parts */
} log_parts;

/* Of 2^-shift (u + d), for a normal u > 0 and a d that may be as large as its last place. Whether
 * it has a d is known where it is called. */
INLINE log_parts log_take(double u, const bool has_d, double d, int shift)
{
    const uint64_t bits = bits_of(u), above = bits - LOG_FIRST;
    const struct logarithm *l = &logarithms[above >> (FRACTION_BITS - LOG_BITS) & (LOG_STEPS - 1)];
    const uint64_t power = above & ~UINT64_C(0xfffffffffffff); /* n, where an exponent belongs */
    const double n = (double)((int64_t)power >> FRACTION_BITS) - shift;
    /* The upper 32 digits of 2^-n u: its product with 1/c is exact, as is that of the others. */
    const uint64_t fraction = bits - power;
    const double m = double_of(fraction);
    const double most = double_of((fraction + UINT64_C(0x100000)) & ~UINT64_C(0x1fffff));
    const double r_high = most * l->inverse - 1;
    double rest = m - most;
    if (has_d)
        rest += d * double_of(UINT64_C(0x3ff0000000000000) - power);
    const double r_rest = rest * l->inverse;
    const double r = r_high + r_rest, r_low = (r_high - r) + r_rest;
    const double head = n * 0x1.62e42fefa38p-1 + l->high; /* exact */
    const double tail = n * 0x1.ef35793c7673p-45 + l->low;
    const double sum = head + r;
    return (log_parts){sum, ((head - sum) + r) + (r_low + tail), r, r_low};
}

/* log(1 + r) - r + r^2/2, within 2^-64 r. */
INLINE double log_rest(double r)
{
    const double square = r * r;
    const double low = 0x1.55555555555e4p-2 + r * -0x1.000000000011dp-2;
    const double middle = 0x1.99999982f790dp-3 + r * -0x1.5555553590d36p-3;
    const double high = 0x1.249a73c8218aep-3 + r * -0x1.0008e8caf3bc6p-3;
    return r * square * ((low + square * middle) + square * square * high);
}

INLINE double log_of_sum(double u, const bool has_d, double d, int shift)
{
    const log_parts l = log_take(u, has_d, d, shift);
    return l.sum + ((l.dropped - 0.5 * (l.r * l.r)) + log_rest(l.r));
}

enum { LIFT = 54 }; /* 2^54 times a subnormal number is a normal one */

double lk_log(double x)
{
    if (x >= DBL_MIN && x < infinity)
        return log_of_sum(x, false, 0, 0);
    if (x > 0 && x < infinity)
        return log_of_sum(x * 0x1p54, false, 0, LIFT);
    return x == 0 ? -infinity : x < 0 ? not_a_number : x;
}

double lk_log1p(double x)
{
    if (fabs(x) < 0x1p-54) /* and -0 */
        return x;
    if (!(x < 0x1p54)) /* the 1 is below the last place; or NaN */
        return lk_log(x);
    if (x <= -1)
        return x == -1 ? -infinity : not_a_number;
    const double u = 1 + x;
    return log_of_sum(u, true, x < 1 ? x - (u - 1) : 1 - (u - x), 0);
}

/* Within 0.62 ulp: 0.5, and what log_rest is off, times y. */
double lk_pow(double x, double y)
{
    if (y == 0 || x == 1)
        return 1;
    if (!(x > 0) || !(x < infinity) || isnan(y)) {
        if (isnan(x) || isnan(y) || x < 0)
            return x < 0 ? not_a_number : x + y;
        return (x == 0) == (y < 0) ? infinity : 0;
    }
    const log_parts l =
        x < DBL_MIN ? log_take(x * 0x1p54, false, 0, LIFT) : log_take(x, false, 0, 0);
    /* The square in two parts, of which the first is exact. */
    const double r = upper_half(l.r), square = 0.5 * (r * r);
    const double head = l.sum - square,
                 dropped_square = 0.5 * ((l.r - r) * (l.r + r)) + l.r * l.r_low;
    const double rest = (((l.sum - head) - square) + l.dropped) + (log_rest(l.r) - dropped_square);
    const double high = head + rest, low = (head - high) + rest;
    const double whole = high * y;
    const double a = upper_half(high), b = upper_half(y);
    const double dropped = ((a * b - whole) + a * (y - b)) + (high - a) * y;
    return exp_of_sum(whole, dropped + low * y); /* an infinite one has no use for the tail */
}

/* x = n pi/2 + r, |r| <= pi/4. */
typedef struct turned {
    double r, r_low;
    int n;
} turned;

static turned turn(double x)
{
    const double n = (x * 0x1.45f306dc9c883p-1 + round_up) - round_up;
    const double r_high = x - n * 0x1.921fb54442d18p+0, r_rest = n * 0x1.1a62633145c07p-54;
    const double r = r_high - r_rest;
    return (turned){r, (r_high - r) - r_rest, (int)n};
}

/* sin r, within a relative 2^-58, and cos r, within 2^-64. */
INLINE double sin_small(double r, double r_low)
{
    const double z = r * r;
    double p = 0x1.5d932d4d32a3fp-33;
    p = p * z - 0x1.ae5e66cd6aa86p-26;
    p = p * z + 0x1.71de357869b01p-19;
    p = p * z - 0x1.a01a019c125ccp-13;
    p = p * z + 0x1.111111110f880p-7;
    p = p * z - 0x1.5555555555549p-3;
    return r + (r * z * p + r_low * (1 - 0.5 * z));
}

INLINE double cos_small(double r, double r_low)
{
    const double z = r * r, half = 0.5 * z, head = 1 - half;
    double p = -0x1.8fbdbce159205p-37;
    p = p * z + 0x1.1eea0ba559fd8p-29;
    p = p * z - 0x1.27e4f83d4e0dcp-22;
    p = p * z + 0x1.a01a019d014ccp-16;
    p = p * z - 0x1.6c16c16c15523p-10;
    p = p * z + 0x1.555555555554ep-5;
    return head + (((1 - head) - half) + (z * z * p - r * r_low));
}

double lk_cos(double x)
{
    const turned t = turn(x);
    const double y = t.n & 1 ? sin_small(t.r, t.r_low) : cos_small(t.r, t.r_low);
    return (t.n + 1) & 2 ? -y : y;
}

double lk_sin(double x)
{
    if (fabs(x) < 0x1p-54) /* and -0 */
        return x;
    const turned t = turn(x);
    const double y = t.n & 1 ? cos_small(t.r, t.r_low) : sin_small(t.r, t.r_low);
    return t.n & 2 ? -y : y;
}
