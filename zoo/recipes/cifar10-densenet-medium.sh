#!/bin/sh
# Trains cifar10-densenet-medium.onnx, a base of cifar10-family.sh. Needs CIFAR-10 in the official binary layout; run from the project's root after `npm ci`.
# Seed 1; 22,500 training images of a subset of 25,000, 2,500 for validation. About 55 minutes on 2 cores of an AMD EPYC (AVX-512).
set -eu
data=${1:?usage: cifar10-densenet-medium.sh CIFAR10_FOLDER}
npx bonsai train --data "cifar10:$data" --batch 64 --augment shift=4,flip,cutout=8 --label-smoothing 0.1 --seed 1 \
  --backbone densenet-medium --epochs 16@0.5,10 --learning-rate 0.1 --out cifar10-densenet-medium.onnx
