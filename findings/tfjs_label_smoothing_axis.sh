#!/usr/bin/env bash
# TensorFlow.js 4.22.0: labelSmoothing of tf.losses.softmaxCrossEntropy is spread over the size of axis 1, and so over
# the time steps where logits are [batch, time, classes], though the softmax is over the last axis. One would expect a
# sequence to cost what its steps cost as rows of a matrix; here 6 steps of 3 classes get labels that add up to 0.85
# instead of 1, and the value differs with the padded length of the batch. It hurts those who train sequence models with
# label smoothing and do not flatten them first. Here classes are the last axis of any number of them; the guide for
# those who come from TensorFlow.js tells the difference.
#
# Needs node and npm. Prints both values; exits with 0 if the surprise is still there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund --ignore-scripts @tensorflow/tfjs@4.22.0 >/dev/null
cat > smoothing.mjs <<'JS'
import * as tf from '@tensorflow/tfjs';
await tf.setBackend('cpu');
const labels = tf.oneHot([0, 1, 2, 0, 1, 2], 3).toFloat();
const logits = tf.tensor2d(Array.from({length: 6}, () => [2, 0, -1]));
const value = (shape, smoothing) => tf.losses.softmaxCrossEntropy(
    labels.reshape(shape), logits.reshape(shape), undefined, smoothing).dataSync()[0];
const rows = [6, 3], sequence = [1, 6, 3];
console.log(`no smoothing: as rows ${value(rows, 0).toFixed(6)}, as a sequence ${value(sequence, 0).toFixed(6)}`);
console.log(`labelSmoothing 0.3: as rows ${value(rows, 0.3).toFixed(6)}, as a sequence ${value(sequence, 0.3).toFixed(6)}`);
process.exit(Math.abs(value(rows, 0) - value(sequence, 0)) < 1e-6 &&
    Math.abs(value(rows, 0.3) - value(sequence, 0.3)) > 0.2 ? 0 : 1);
JS
node smoothing.mjs 2>&1 | grep -v '^$\|^===\|Node.js' ; exit "${PIPESTATUS[0]}"
