#!/bin/sh
# Trains the bases of zoo/models/hymenoptera (ants and bees, 244 training images), grows the family and measures it on CPU 0. Needs the
# image folders, a ResNet-32 of others for CIFAR-100 that expects normalised pixels, whose weights are the start of the first base, and what
# cifar100-family.sh leaves (cifar100-densenet.onnx), the start of the second. Run from the project's root after `npm ci`. Seed 1.
# About 20 minutes on one core of an AMD EPYC.
set -eu
data=${1:?usage: hymenoptera.sh FOLDER RESNET32.onnx [REPOSITORY]}
resnet32=${2:?usage: hymenoptera.sh FOLDER RESNET32.onnx [REPOSITORY]}
out=${3:-models}
augment="--augment shift=5,flip,cutout=12"
common="--data images:$data,size=48 --batch 16 $augment --seed 1 --threads 1"
port="$common --task hymenoptera --out $out --int8 --keep all"
npx bonsai train $common --from "$resnet32" --normalize-input --new-head --clip-norm 1 --epochs 15 --learning-rate 0.003 --out hymenoptera-resnet.onnx
npx bonsai train $common --from cifar100-densenet.onnx --new-head --clip-norm 1 --epochs 40 --learning-rate 0.01 \
  --teacher hymenoptera-resnet.onnx --out hymenoptera-densenet.onnx
npx bonsai port hymenoptera-resnet.onnx $port --epochs 60 --learning-rate 0.01 --criteria l2 --ratios 0.15,0.3,0.5,0.65 --distill only
npx bonsai port hymenoptera-resnet.onnx $port --add --epochs 20 --learning-rate 0.005 --criteria l2 --ratios 0.25,0.4,0.5,0.6,0.75 --distill only
npx bonsai port hymenoptera-resnet.onnx $port --add --epochs 20 --learning-rate 0.005 --criteria fpgm,taylor --ratios 0.5 --distill both
npx bonsai port hymenoptera-densenet.onnx $port --add --epochs 20 --learning-rate 0.005 --criteria l2 --ratios 0.3 --distill only \
  --teacher hymenoptera-resnet.onnx
npx bonsai profile "$out" --task hymenoptera --cpus 0 --again --contest mnist:1
