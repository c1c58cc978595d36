#!/bin/sh
# Trains mnist-resnet.onnx, the base of a family in zoo/models. Needs MNIST in the official IDX files; run from the project's root after `npm ci`.
# Seed 1; 55,000 training images, 5,000 for validation. About 5 minutes on 2 cores of an AMD EPYC.
set -eu
data=${1:?usage: mnist-resnet.sh MNIST_FOLDER}
npx bonsai train --data "mnist:$data" --backbone resnet:widths=16-32-64,blocks=1-1-1 --epochs 4@0.5,5 \
  --augment shift=2,rotate=10,scale=0.1 --label-smoothing 0.05 --learning-rate 0.1 --seed 1 --out mnist-resnet.onnx
