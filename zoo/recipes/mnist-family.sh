#!/bin/sh
# Grows the family in zoo/models/mnist from its three bases, and measures it on CPU 0. Needs MNIST in the official IDX files;
# run from the project's root after `npm ci`. Seed 1. About three quarters of an hour on 2 cores of an AMD EPYC.
# zoo/models keeps seventeen versions of it, the bases among them; most of those left out are dominated.
set -eu
data=${1:?usage: mnist-family.sh MNIST_FOLDER [REPOSITORY]}
out=${2:-models}
wide=zoo/models/mnist/2/model.onnx resnet=zoo/models/mnist/6/model.onnx densenet=zoo/models/mnist/11/model.onnx
common="--data mnist:$data --task mnist --out $out --epochs 2 --learning-rate 0.05 --augment shift=2,rotate=10,scale=0.1 --int8 --keep all --seed 1"
npx bonsai port $resnet $common --criteria l2,taylor --ratios 0.5,0.75 --distill both
npx bonsai port $densenet $common --add --criteria fpgm --ratios 0.5,0.75 --align 8 --teacher $resnet --distill only
npx bonsai port $resnet $common --add --criteria l2 --ratios 0.75,0.875 --align 4 --distill only
npx bonsai port $resnet $common --add --criteria l2 --ratios 0.25,0.375 --align 4 --distill only --threads 1
longer="$(echo "$common" | sed 's/--epochs 2/--epochs 4/')"
npx bonsai port $resnet $longer --add --criteria taylor --ratios 0.5,0.625 --align 4 --distill only
npx bonsai port $resnet $longer --add --criteria l2 --ratios 0.8125 --align 4 --distill only
npx bonsai port $wide --data "mnist:$data" --task mnist --out "$out" --epochs 3 --learning-rate 0.05 --augment shift=2,rotate=10,scale=0.1 --int8 --keep all --seed 1 \
  --add --criteria taylor --ratios 0.25,0.375,0.5 --align 8 --distill only
npx bonsai profile "$out" --task mnist --cpus 0 --again --contest cifar10:4
