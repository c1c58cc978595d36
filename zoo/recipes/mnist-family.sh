#!/bin/sh
# Grows the family in zoo/models/mnist from the two bases, and measures it on CPU 0. Needs MNIST in the official IDX files;
# run from the project's root after `npm ci`. Seed 1. About 20 minutes on 2 cores of an AMD EPYC.
set -eu
data=${1:?usage: mnist-family.sh MNIST_FOLDER [REPOSITORY]}
out=${2:-models}
common="--data mnist:$data --task mnist --out $out --epochs 2 --learning-rate 0.05 --augment shift=2,rotate=10,scale=0.1 --int8 --keep all --seed 1"
npx bonsai port zoo/bases/mnist-resnet.onnx $common --criteria l2,taylor --ratios 0.5,0.75 --distill both
npx bonsai port zoo/bases/mnist-densenet.onnx $common --add --criteria fpgm --ratios 0.5,0.75 --align 8 \
  --teacher zoo/bases/mnist-resnet.onnx --distill only
npx bonsai port zoo/bases/mnist-resnet.onnx $common --add --criteria l2 --ratios 0.75,0.875 --align 4 --distill only
npx bonsai profile "$out" --task mnist --cpus 0 --again
