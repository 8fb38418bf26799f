#!/usr/bin/env bash
# Installs what the tests and the build need beyond Rust: mosquitto, redis-server, nats-server, consul, postgresql, a C
# compiler, pkg-config and the headers of OpenSSL. Does nothing where all of it is there. As root on Debian it installs what is
# missing; elsewhere it names it and fails. Nothing is written into the repository and no service is left running.
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
sources=/etc/apt/sources.list.d/edgehold-bullseye.sources
preferences=/etc/apt/preferences.d/edgehold-bullseye
policy=/usr/sbin/policy-rc.d

# Prints the missing Debian packages, one a line.
missing() {
    command -v mosquitto >/dev/null || echo mosquitto
    command -v redis-server >/dev/null || echo redis-server
    command -v nats-server >/dev/null || echo nats-server
    command -v consul >/dev/null || echo consul
    # Debian keeps the server in a folder for each version, which is in no PATH.
    { compgen -G '/usr/lib/postgresql/*/bin/postgres' || command -v postgres; } >/dev/null || echo postgresql
    command -v cc >/dev/null || printf '%s\n' gcc libc6-dev
    command -v pkg-config >/dev/null || echo pkg-config
    pkg-config --exists openssl 2>/dev/null || echo libssl-dev
}

# Consul left Debian after bullseye. Its suite is taken from the mirror that this machine's own sources name: apt is
# asked, which has read them in whichever format they are written.
add_bullseye() {
    local mirror
    mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && !found { found = $2 } END { print found }')
    if [ -z "$mirror" ]; then
        echo "no Debian mirror among this machine's package sources; install consul by hand" >&2
        exit 1
    fi
    cat >"$sources" <<EOF
Types: deb
URIs: $mirror
Suites: bullseye
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
    # Only for what this machine's own suite does not have.
    printf 'Package: *\nPin: release n=bullseye\nPin-Priority: 100\n' >"$preferences"
    apt-get update -q
}

packages=$(missing)
if [ -z "$packages" ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${packages//$'\n'/ } (Debian package names). Run deploy/install-test-servers.sh as root on Debian," \
        "or install them by hand." >&2
    exit 1
fi

echo "installing ${packages//$'\n'/ }"
export DEBIAN_FRONTEND=noninteractive
# Debian starts a service when its package is installed, unless this file says no.
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
# Each test makes a PostgreSQL cluster of its own; the package would make one, too, and start it with the machine.
if [[ $packages == *postgresql* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi
apt-get update -q
if [[ $packages == *consul* ]] && ! apt-get install --simulate consul >/dev/null 2>&1; then
    add_bullseye
fi
# shellcheck disable=SC2086 # one package a word
apt-get install -q -y --no-install-recommends $packages

packages=$(missing)
if [ -n "$packages" ]; then
    echo "still missing after installation: ${packages//$'\n'/ }" >&2
    exit 1
fi
