#!/bin/sh
# Grows a family for CIFAR-10 from a ResNet and a narrow DenseNet, and measures it on CPU 0. Needs CIFAR-10 in the official binary layout, a
# ResNet-20 for it as a teacher (any ONNX network that expects normalised pixels; 91.85 % in this case), and what cifar10-densenet-medium.sh
# leaves; run from the project's root after `npm ci`. Seed 1. About two hours on 2 cores of an AMD EPYC. zoo/models/cifar10 has these networks
# without most of those that others dominate (`bonsai repo remove`), and those of cifar10-densenet-wide.sh besides.
set -eu
data=${1:?usage: cifar10-family.sh CIFAR10_FOLDER TEACHER.onnx [REPOSITORY]}
teacher=${2:?usage: cifar10-family.sh CIFAR10_FOLDER TEACHER.onnx [REPOSITORY]}
out=${3:-models}
resnet=zoo/models/cifar10/1/model.onnx densenet=cifar10-densenet-medium.onnx
common="--data cifar10:$data --task cifar10 --out $out --learning-rate 0.05 --augment shift=4,flip,cutout=8 --int8 --keep all --seed 1"
npx bonsai quantize "$teacher" --data "cifar10:$data" --normalize-input --out teacher10-int8.onnx
npx bonsai port $densenet $common --criteria l2 --scope global --align 8 --ratios 0.5,0.7,0.8 --distill only --teacher $resnet \
  --epochs 8 --threads 2
npx bonsai port $resnet $common --add --criteria fpgm,taylor --ratios 0.5,0.7 --epochs 3 --threads 1
npx bonsai port $resnet $common --add --criteria taylor --ratios 0.5,0.7,0.85 --epochs 2@0.5,3 --distill both --teacher teacher10-int8.onnx --threads 1
npx bonsai port $resnet $common --add --criteria taylor --ratios 0.25,0.4,0.6,0.8 --epochs 2@0.5,3 --distill only --teacher teacher10-int8.onnx --threads 1
npx bonsai profile "$out" --task cifar10 --cpus 0 --again --contest mnist:6
