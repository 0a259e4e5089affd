#!/usr/bin/env bash
# TensorFlow.js 4.22.0: the gradient of tf.losses.softmaxCrossEntropy is softmax - labels whatever the labels add up to.
# One would expect the derivative of the value that the same call returns, which is sum(labels) softmax - labels: rows of
# labels that are all 0 (padding, classes left out) cost 0 and are trained towards nothing all the same, and weighted
# or several labels (a row that adds up to 2) get a gradient that central differences contradict. It hurts those who
# pad batches with rows of zeros, or fold weights into labels. Labels that add up to 1 are right. Here cross_entropy's
# gradient is that of its value; the guide for those who come from TensorFlow.js says so.
#
# Needs node and npm. Prints gradients beside central differences; exits with 0 if the surprise is still there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --ignore-scripts @tensorflow/tfjs@4.22.0 >/dev/null
cat > gradient.mjs <<'JS'
import * as tf from '@tensorflow/tfjs';
await tf.setBackend('cpu');
const at = [1, 0, -1], step = 0.01;
let apart = [];
for (const labels of [[1, 0, 0], [0, 0, 0], [1, 0, 1]]) {
    const loss = x => tf.losses.softmaxCrossEntropy([labels], x);
    const gradient = Array.from(tf.grad(loss)(tf.tensor([at])).dataSync());
    const differences = at.map((_, i) => {
        const moved = by => loss(tf.tensor([at.map((x, k) => x + (k === i ? by : 0))])).dataSync()[0];
        return (moved(step) - moved(-step)) / (2 * step);
    });
    const show = x => x.map(v => v.toFixed(3)).join(' ');
    console.log(`labels ${labels}: gradient ${show(gradient)}, central differences ${show(differences)}`);
    apart.push(Math.max(...gradient.map((g, i) => Math.abs(g - differences[i]))));
}
process.exit(apart[0] < 0.01 && apart[1] > 0.5 && apart[2] > 0.5 ? 0 : 1);
JS
node gradient.mjs 2>&1 | grep -v '^$\|^===\|Node.js' ; exit "${PIPESTATUS[0]}"
