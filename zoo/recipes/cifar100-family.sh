#!/bin/sh
# Grows the family in zoo/models/cifar100 and measures it on CPU 0. Needs what cifar100-resnet-wide.sh leaves: the base and the 8-bit
# teacher. The second backbone is a DenseNet that was pruned for CIFAR-10 before (version 11 of that family), with a new head. Run from
# the project's root after `npm ci`. Seed 1. About an hour on one core of an AMD EPYC.
set -eu
data=${1:?usage: cifar100-family.sh CIFAR100_FOLDER [REPOSITORY]}
out=${2:-models}
augment="--augment shift=4,flip,cutout=8"
common="--data cifar100:$data --task cifar100 --out $out --epochs 2@0.5,3 --learning-rate 0.05 $augment --int8 --keep all --threads 1 --seed 1"
teacher="--teacher teacher100-int8.onnx"
npx bonsai port cifar100-resnet-wide.onnx $common --criteria l2 --ratios 0.25,0.4,0.5,0.6,0.7,0.8 --distill only $teacher
npx bonsai train --data "cifar100:$data" --from zoo/models/cifar10/11/model.onnx --new-head --batch 64 $augment $teacher \
  --teacher-normalize-input --distill-weight 0.9 --epochs 3@0.5,5 --learning-rate 0.08 --threads 1 --seed 1 --out cifar100-densenet.onnx
npx bonsai port cifar100-resnet-wide.onnx $common --add --criteria fpgm --ratios 0.5 --distill both $teacher
npx bonsai port cifar100-densenet.onnx $common --add --criteria taylor --scope global --ratios 0.3 --distill only $teacher
npx bonsai profile "$out" --task cifar100 --cpus 0 --again --contest mnist:6
