# shellcheck shell=bash
# Set-up for the commands of ci/, sourced by them. Each ensure_* function looks first and changes the
# machine only where something is missing, so a second run is quick. Installing needs root or sudo.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
command=ci/$(basename "$0")
rust_toolchain=1.95.0  # what rustup installs if cargo is missing or too old
nextest_version=0.9.143 # what is installed if cargo-nextest is missing

# dockerd, iptables and the like are not on the PATH of ordinary users on Debian.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
[ ! -d "$HOME/.cargo/bin" ] || PATH=$HOME/.cargo/bin:$PATH
[ "${CI:-}" != true ] || export CARGO_TERM_PROGRESS_WHEN=never CARGO_TERM_COLOR=never

say() { printf '%s: %s\n' "$command" "$*"; }

die() {
  printf '%s: %s\n' "$command" "$*" >&2
  exit 1
}

wrong_usage() {
  printf '%s: %s; see %s --help\n' "$command" "$1" "$command" >&2
  exit 2
}

is_root() { [ "$(id -u)" = 0 ]; }

as_root() {
  if is_root; then
    "$@"
  elif command -v sudo > /dev/null; then
    sudo env PATH="$PATH" ${DOCKER_HOST:+DOCKER_HOST="$DOCKER_HOST"} "$@"
  else
    die "this needs root: $*; run $command as root, or install sudo"
  fi
}

# ---- packages ----------------------------------------------------------------------------------

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 -o DPkg::Use-Pty=0 "$@" < /dev/null
}

# apt_install PACKAGE...: with new package lists if those of the machine are missing or too old
apt_install() {
  local log
  command -v apt-get > /dev/null ||
    die "this machine has no apt-get (it is no Debian or Ubuntu); please install what $* of Debian contain"
  say "installing $*"
  log=$(mktemp)
  if ! apt_get install "$@" > "$log" 2>&1 && ! { apt_get update && apt_get install "$@"; } > "$log" 2>&1; then
    tail -n 15 "$log" >&2
    rm -f "$log"
    die "apt-get could not install $*; its last words are above"
  fi
  rm -f "$log"
}

# ensure_packages PROGRAM[:PACKAGE]...: installs the packages of the programs that are missing
ensure_packages() {
  local entry missing=()
  for entry; do
    command -v "${entry%%:*}" > /dev/null || missing+=("${entry##*:}")
  done
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# ---- Docker ------------------------------------------------------------------------------------

# Docker's own words if the engine does not answer.
engine_error() { { as_root timeout 60 docker version --format '{{.Server.Version}}' > /dev/null; } 2>&1; }

ensure_docker() {
  local problem packages=()
  if ! command -v docker > /dev/null; then
    packages=(docker.io)
    # The command is a package of its own where it is only recommended by docker.io (Debian 13).
    if [ -z "$(apt-cache madison docker-cli 2> /dev/null)" ]; then apt_get update > /dev/null 2>&1 || true; fi
    if [ -n "$(apt-cache madison docker-cli 2> /dev/null)" ]; then packages+=(docker-cli); fi
    apt_install "${packages[@]}"
  fi
  problem=$(engine_error) && return
  [ -z "${DOCKER_HOST:-}" ] ||
    die "the Docker engine at DOCKER_HOST=$DOCKER_HOST does not answer (${problem##*$'\n'}); start it, or unset DOCKER_HOST to use the one of this machine"
  ensure_packages dockerd:docker.io
  start_dockerd
  problem=$(engine_error) || die "dockerd was started but does not answer: ${problem##*$'\n'}"
}

# Leaves it running, as an installed service would be.
start_dockerd() {
  local log=/var/log/dockerd.log
  if [ -d /run/systemd/system ]; then
    say 'starting docker.service'
    as_root systemctl start docker || die 'docker.service did not start; see: journalctl -u docker'
    return
  fi
  say "starting dockerd (log: $log)"
  # shellcheck disable=SC2016 # $1 is for the inner shell
  as_root sh -c 'setsid dockerd < /dev/null > "$1" 2>&1 &' start "$log"
  as_root curl --silent --output /dev/null --unix-socket /var/run/docker.sock --retry 60 --retry-delay 1 \
    --retry-max-time 60 --retry-all-errors http://docker/_ping || {
    as_root tail -n 15 "$log" >&2
    die "dockerd did not start; the end of its log is above"
  }
}

# ---- Rust --------------------------------------------------------------------------------------

# at_least WANTED VERSION
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

cargo_version() { (cd "$root" && cargo --version 2> /dev/null) | sed -n 's/^cargo \([0-9.]*\).*/\1/p'; }

ensure_rust() {
  local wanted version
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
  version=$(cargo_version) || true
  # The crates need a C compiler: SQLite is built from source, and so is the core of rustls.
  ensure_packages curl cc:build-essential
  [ -e /etc/ssl/certs/ca-certificates.crt ] || apt_install ca-certificates
  if [ -n "$version" ] && at_least "$wanted" "$version"; then
    return
  fi
  say "installing Rust $rust_toolchain with rustup (cargo ${version:-is missing}, $wanted is needed)"
  if ! command -v rustup > /dev/null; then
    install_rustup
  fi
  rustup -q toolchain install "$rust_toolchain" --profile minimal -c clippy -c rustfmt
  export RUSTUP_TOOLCHAIN=$rust_toolchain
}

# The official installer, checked against its published sum.
install_rustup() {
  local directory url
  url=https://static.rust-lang.org/rustup/dist/$(uname -m)-unknown-linux-gnu/rustup-init
  directory=$(mktemp -d)
  curl -sSf --retry 3 -o "$directory/rustup-init" "$url" -o "$directory/sum" "$url.sha256" ||
    die "cannot download $url; install Rust by hand: https://rustup.rs"
  [ "$(cut -d ' ' -f 1 "$directory/sum")" = "$(sha256sum < "$directory/rustup-init" | cut -d ' ' -f 1)" ] ||
    die "$url does not have its published SHA-256"
  chmod +x "$directory/rustup-init"
  "$directory/rustup-init" -y -q --no-modify-path --profile minimal --default-toolchain none > "$directory/log" 2>&1 || {
    tail -n 15 "$directory/log" >&2
    die 'rustup could not be installed; its last words are above'
  }
  rm -rf "$directory"
  PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
}

# clippy and rustfmt, which a toolchain of the distribution or of the minimal profile may lack
ensure_rust_components() {
  ensure_rust
  if ! cargo clippy --version > /dev/null 2>&1 || ! cargo fmt --version > /dev/null 2>&1; then
    say 'installing clippy and rustfmt'
    rustup -q component add clippy rustfmt || die 'clippy and rustfmt are missing and rustup cannot add them'
  fi
}

ensure_nextest() {
  cargo nextest --version > /dev/null 2>&1 && return
  say "building cargo-nextest $nextest_version (a few minutes, once)"
  # Not in the tree's target directory, and not with the tree's settings.
  (cd / && cargo install --quiet --locked "cargo-nextest@$nextest_version")
}

# run_nextest ARGUMENT...: in the tree. Tests start brokers, which hand their directories over to the
# users of the services, and VMs: as root.
run_nextest() {
  local runner profile=default
  if ! is_root; then
    runner=CARGO_TARGET_$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')_RUNNER
    export "$runner=sudo --preserve-env"
  fi
  [ "${CI:-}" != true ] || profile=ci
  (cd "$root" && cargo nextest run --locked --profile "$profile" "$@" < /dev/null)
}

# ---- test tools --------------------------------------------------------------------------------

# The registry's program out of its package. The package itself would start a service on port 5000.
ensure_registry() {
  local tools=$root/target/ci-tools
  PATH=$PATH:$tools/usr/bin
  command -v docker-registry > /dev/null && return
  say 'unpacking docker-registry'
  mkdir -p "$tools"
  (cd "$tools" && { apt_download docker-registry || { apt_get update > /dev/null && apt_download docker-registry; }; }) ||
    die 'apt-get could not download docker-registry'
  dpkg-deb -x "$tools"/docker-registry_*.deb "$tools"
  rm -f "$tools"/docker-registry_*.deb
}

apt_download() { apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$1" > /dev/null 2>&1; }
