#!/usr/bin/env bash
# The backdoored networks that I-BAU's authors published, where `awm reproduce` looks for networks.
#
#   git clone https://github.com/YiZeng623/I-BAU
#   bench/adopt_ibau.sh I-BAU NETS [PREFIX]
#
# PREFIX goes before the names of those for CIFAR-10: published_, in results/erasing.jsonl. A checkpoint
# that isn't there is left out.
#
#   PYTHON=python3.12   the Python to run with
set -euo pipefail
if [ $# -lt 2 ] || [ ! -d "$1/checkpoint" ]; then
  echo "usage: bench/adopt_ibau.sh IBAU NETS [PREFIX]; IBAU holds their checkpoint/ and triggers/" >&2
  exit 2
fi
release="$1"
nets="$2"
prefix="${3:-}"
root="$(cd "$(dirname "$0")/.." && pwd)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

adopt() { # checkpoint, data set, classes, attack, target, options
  local checkpoint="$release/checkpoint/$1_ckpt.pth" folder="$nets/small_vgg/$prefix$4"
  [ "$2" = cifar10 ] || folder="$nets/small_vgg/$2_$4"
  [ -f "$checkpoint" ] || return 0
  "${PYTHON:-python}" -m bench.adopt "$checkpoint" --arch small_vgg --dataset "$2" \
    --num-classes "$3" --attack "$4" --target "$5" --out "$folder" "${@:6}"
  echo "$folder"
}

for task in ":cifar10:10" "gtsrb:gtsrb:43"; do
  IFS=: read -r name data classes <<<"$task"
  triggers="$release/triggers"
  adopt "${name}badnets_8_02" "$data" "$classes" badnets 8
  for attack in trojan_sq trojan_wm; do
    adopt "${name}${attack}_2_02" "$data" "$classes" "$attack" 2 \
      --trigger-image "$triggers/$attack.png"
  done
  adopt "${name}l0_inv_0_02" "$data" "$classes" l0_inv 0 \
    --trigger-image "$triggers/l0_inv.png" --trigger-mask "$triggers/mask.npy"
  adopt "${name}l2_inv_0_02" "$data" "$classes" l2_inv 0 --trigger-image "$triggers/l2_inv.png"
done
