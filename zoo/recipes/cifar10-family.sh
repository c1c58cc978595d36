#!/bin/sh
# Grows the family in zoo/models/cifar10 from the two bases, and measures it on CPU 0. Needs CIFAR-10 in the official binary
# layout; run from the project's root after `npm ci`. Seed 1. About an hour on 2 cores of an AMD EPYC. The DenseNet's ratio 0.75 was
# stopped before its end, so zoo/models lacks it.
set -eu
data=${1:?usage: cifar10-family.sh CIFAR10_FOLDER [REPOSITORY]}
out=${2:-models}
npx bonsai port zoo/bases/cifar10-densenet-medium.onnx --data "cifar10:$data" --task cifar10 --out "$out" \
  --criteria l2 --scope global --align 8 --ratios 0.5,0.7,0.75,0.8 --distill only --teacher zoo/bases/cifar10-resnet-wide.onnx \
  --epochs 8 --learning-rate 0.05 --augment shift=4,flip,cutout=8 --int8 --keep all --threads 2 --seed 1
npx bonsai port zoo/bases/cifar10-resnet-wide.onnx --data "cifar10:$data" --task cifar10 --out "$out" --add \
  --criteria fpgm,taylor --ratios 0.5,0.7 --epochs 3 --learning-rate 0.05 --augment shift=4,flip,cutout=8 --int8 --keep all \
  --threads 1 --seed 1
npx bonsai profile "$out" --task cifar10 --cpus 0 --again
