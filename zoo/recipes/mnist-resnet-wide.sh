#!/bin/sh
# Trains mnist-resnet-wide.onnx, the widest base of a family in zoo/models. Needs MNIST in the official IDX files; run from the project's root
# after `npm ci`. Seed 1; 55,000 training images, 5,000 for validation. About 10 minutes on 2 cores of an AMD EPYC.
set -eu
data=${1:?usage: mnist-resnet-wide.sh MNIST_FOLDER}
npx bonsai train --data "mnist:$data" --backbone resnet:widths=24-48-96,blocks=1-1-1 --epochs 3@0.5,4 \
  --augment shift=2,rotate=10,scale=0.1 --label-smoothing 0.05 --learning-rate 0.1 --seed 1 --out mnist-resnet-wide.onnx
