#!/bin/sh
# Trains mnist-densenet.onnx, the base of a family in zoo/models. Needs MNIST in the official IDX files; run from the project's root after `npm ci`.
# Seed 1; 55,000 training images, 5,000 for validation. About 8 minutes on 2 cores of an AMD EPYC.
set -eu
data=${1:?usage: mnist-densenet.sh MNIST_FOLDER}
npx bonsai train --data "mnist:$data" --backbone densenet:growth=8,layers=3-3-3 --epochs 4@0.5,4 \
  --augment shift=2,rotate=10,scale=0.1 --label-smoothing 0.05 --learning-rate 0.1 --seed 1 --out mnist-densenet.onnx
