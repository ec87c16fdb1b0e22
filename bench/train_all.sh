#!/usr/bin/env bash
# Every backdoored network of the AWM paper's tables, one after the other; a finished one is kept, an
# interrupted one continued, so the same command can be given again.
#
#   bench/train_all.sh DATA OUT [ARCH]     with more options for `awm train` in AWM_TRAIN_OPTIONS
#
# DATA holds cifar-10-batches-py and, for the last network, GTSRB.
set -euo pipefail
data="$1"
out="$2"
arch="${3:-resnet18}"
read -ra options <<<"${AWM_TRAIN_OPTIONS:-}"

train() { # folder, data set, options
  local folder="$out/$arch/$1" dataset="$2"
  shift 2
  echo "== $folder" >&2
  awm train --arch "$arch" --dataset "$dataset" --data-dir "$data" --out "$folder" \
    "$@" "${options[@]}"
}

train benign cifar10 --attack none
clean="$out/$arch/benign/model.safetensors"
train badnets cifar10 --attack badnets --target 8
for attack in trojan_sq trojan_wm l0_inv l2_inv; do
  train "$attack" cifar10 --attack "$attack" --clean-model "$clean"
done
train blended cifar10 --attack blended
train clean_label cifar10 --attack clean_label --clean-model "$clean"
train wanet cifar10 --attack wanet
train wanet_all_to_all cifar10 --attack wanet --all-to-all
if [ -d "$data/GTSRB" ]; then
  train gtsrb_trojan_sq_all_to_all gtsrb --attack trojan_sq --all-to-all
fi
