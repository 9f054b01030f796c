# shellcheck shell=bash disable=SC2154 # root is of ci/lib.sh
# What ci/blobs --from-debian puts in the place of the pinned files: for each blob NAME
#   NAME_inputs               what it is made of; the first line is for people
#   NAME_stand_in WORK FILE   makes FILE, with the layout of the pinned one

# For tar: equal contents are equal bytes, so that what is made again is not compiled again.
same_bytes=(--sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner '--mode=u+rwX,go+rX,go-w')

# ---- docker: Docker's static bundle ------------------------------------------------------------

# The distribution's programs and the libraries they need: found beside them, as the stemcell may
# lack them. Only the C library is the stemcell's.
docker_programs=(
  containerd containerd-shim-runc-v2 ctr docker docker-init docker-proxy dockerd runc
)
docker_base_packages='^(libc6|libgcc-s1|libcrypt1|gcc-[0-9]+-base)$'

docker_inputs() {
  # shellcheck disable=SC1091
  echo "Docker of $(. /etc/os-release && echo "${PRETTY_NAME:-an unknown distribution}")"
  declare -p docker_programs docker_base_packages
  declare -f docker_stand_in docker_packages docker_libraries docker_needs
}

# docker.io and what it and runc need of libraries
docker_packages() {
  local queue=(docker.io containerd runc tini) package seen=' '
  # A package of its own where docker.io only recommends it.
  [ -z "$(apt-cache madison docker-cli)" ] || queue+=(docker-cli)
  while [ ${#queue[@]} -gt 0 ]; do
    package=${queue[0]}
    queue=("${queue[@]:1}")
    case $seen in *" $package "*) continue ;; esac
    [[ ! $package =~ $docker_base_packages ]] || continue
    seen+="$package "
    echo "$package"
    mapfile -t -O "${#queue[@]}" queue < <(
      apt-cache depends --important "$package" | sed -nE 's/^ +\|?(Pre)?Depends: (lib[^<>]+)$/\2/p'
    )
  done
}

# The libraries that a program or library names itself; none for what is linked statically
docker_needs() { readelf -d "$1" | sed -nE 's/.*\(NEEDED\).*\[(.*)\]$/\1/p'; }

# docker_libraries TREE BUNDLE: copies the libraries that the programs in BUNDLE need from TREE
docker_libraries() {
  local tree=$1 bundle=$2 file needed found queue=("$2"/*)
  mkdir "$bundle/lib"
  while [ ${#queue[@]} -gt 0 ]; do
    file=${queue[0]}
    queue=("${queue[@]:1}")
    while read -r needed; do
      [ ! -e "$bundle/lib/$needed" ] || continue
      found=$(find "$tree" -name "$needed" -print -quit)
      [ -n "$found" ] || continue # of the C library
      cp -L "$found" "$bundle/lib/"
      queue+=("$bundle/lib/$needed")
    done < <(docker_needs "$file")
  done
}

docker_stand_in() {
  local work=$1 tree=$1/tree bundle=$1/docker package program needed
  ensure_packages patchelf readelf:binutils
  mkdir -p "$tree" "$bundle" "$work/debs"
  for package in $(docker_packages); do
    (cd "$work/debs" && { apt_download "$package" || { apt_get update > /dev/null && apt_download "$package"; }; }) ||
      die "apt-get could not download $package"
  done
  for package in "$work"/debs/*.deb; do
    dpkg-deb -x "$package" "$tree"
  done
  for program in "${docker_programs[@]}"; do
    needed=$(find "$tree" -path "*/usr/*" -name "$program" ! -type d -perm /111 -print -quit)
    [ -n "$needed" ] || die "the packages docker.io, containerd and runc have no $program"
    cp -L "$needed" "$bundle/"
  done
  docker_libraries "$tree" "$bundle"
  for program in "${docker_programs[@]}"; do
    for needed in $(docker_needs "$bundle/$program"); do
      if [ -e "$bundle/lib/$needed" ]; then
        # RPATH, not RUNPATH: it also holds for the libraries of the libraries.
        # shellcheck disable=SC2016 # $ORIGIN is for the loader
        patchelf --force-rpath --set-rpath '$ORIGIN/lib' "$bundle/$program"
        break
      fi
    done
  done
  tar -C "$work" "${same_bytes[@]}" -cf - docker | gzip -1 -n > "$2"
}

# ---- rust: the official toolchain --------------------------------------------------------------

rust_inputs() {
  (cd "$root" && rustc -vV)
  declare -f rust_stand_in
}

rust_stand_in() {
  local work=$1 sysroot version tree
  sysroot=$(cd "$root" && rustc --print sysroot)
  version=$(cd "$root" && rustc -vV | sed -n 's/^release: //p')
  [ "$(cd "$root" && rustc -vV | sed -n 's/^host: //p')" = x86_64-unknown-linux-gnu ] ||
    die 'the toolchain of this machine is not for x86_64-unknown-linux-gnu, as a stemcell is'
  # A distribution's toolchain is spread over /usr.
  case $sysroot in
    /usr | /usr/*) die "the Rust of this machine is in $sysroot; install one with rustup: https://rustup.rs" ;;
  esac
  tree=$work/rust-$version-x86_64-unknown-linux-gnu
  mkdir -p "$tree"
  cat > "$tree/install.sh" << 'SH'
#!/bin/sh
# In the place of the official installer: takes its arguments, installs everything there is.
set -eu
prefix=
for argument; do
  case $argument in
    --prefix=*) prefix=${argument#--prefix=} ;;
    --components=* | --disable-ldconfig) ;;
    *) echo "install.sh: unknown argument $argument" >&2 && exit 2 ;;
  esac
done
mkdir -p "${prefix:?}"
cp -a "$(dirname "$0")/toolchain/." "$prefix/"
SH
  chmod +x "$tree/install.sh"
  ln -s "$sysroot" "$tree/toolchain"
  # What the components rustc, cargo and rust-std have of bin and lib.
  (cd "$work" && shopt -s nullglob && tar "${same_bytes[@]}" -cf - "${tree##*/}/install.sh" \
    "${tree##*/}"/toolchain/bin/{rustc,cargo} "${tree##*/}"/toolchain/lib/*.so* \
    "${tree##*/}/toolchain/lib/rustlib/x86_64-unknown-linux-gnu") | xz -0 -T0 > "$2"
}
