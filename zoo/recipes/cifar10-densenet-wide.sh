#!/bin/sh
# Trains a wide DenseNet for CIFAR-10 and adds it, and what is pruned from it, to the family of cifar10-family.sh. Needs CIFAR-10 in the
# official binary layout, and a ResNet-56 for it as a teacher (any ONNX network that expects normalised pixels); run from the project's
# root after `npm ci`. Seed 1. About 90 minutes on 2 cores of an AMD EPYC without AVX-512.
set -eu
data=${1:?usage: cifar10-densenet-wide.sh CIFAR10_FOLDER TEACHER.onnx [REPOSITORY]}
teacher=${2:?usage: cifar10-densenet-wide.sh CIFAR10_FOLDER TEACHER.onnx [REPOSITORY]}
out=${3:-models}
augment="--augment shift=4,flip,cutout=8"
npx bonsai quantize "$teacher" --data "cifar10:$data" --normalize-input --out teacher-int8.onnx
npx bonsai train --data "cifar10:$data" --batch 64 $augment --label-smoothing 0.1 --seed 1 \
  --backbone densenet:growth=48,layers=4-4-4,multiple=16 --epochs 10@0.5,4 --learning-rate 0.1 --out stage1.onnx
npx bonsai train --data "cifar10:$data" --batch 64 $augment --seed 1 --from stage1.onnx \
  --teacher teacher-int8.onnx --teacher-normalize-input --epochs 3 --learning-rate 0.05 --out cifar10-densenet-wide.onnx
npx bonsai port cifar10-densenet-wide.onnx --data "cifar10:$data" --task cifar10 --out "$out" --add \
  --criteria l2 --scope global --align 8 --ratios 0.7 --distill only --teacher teacher-int8.onnx \
  --epochs 12 --learning-rate 0.05 $augment --int8 --keep all --threads 2 --seed 1
npx bonsai profile "$out" --task cifar10 --cpus 0 --again --contest mnist:6
