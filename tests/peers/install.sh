#!/bin/bash
# Installs what the tests, the demo and the benchmark run against: real mail servers, filters and a name server, all from
# Debian's own packages. Does nothing where everything is there. Leaves the machine's own mail service alone: nothing is started,
# no file under /etc is changed for good, and an MTA that Postfix would push out stays (Postfix is then unpacked under target/peers).
#
#   tests/peers/install.sh            install
#   tests/peers/install.sh --unpack   unpack Postfix under target/peers even where it could be installed
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
peers=${CARGO_TARGET_DIR:-$root/target}/peers

# What they are for: name server; SASL for Postfix; independent verifiers, OpenDKIM and OpenDMARC's library among them;
# certificates and keys; what RT's rt-mailgate is written with; Sendmail's configuration language; libraries of the unpacked Exim and Sendmail; setpriv and pgrep;
# the build. Beside these, systemd's and AppArmor's tools, and two programs that read manual pages, for what the packages bring.
packages=(
    dnsmasq-base
    dovecot-core dovecot-submissiond
    python3 python3-dkim python3-nacl python3-spf python3-dnspython libopendmarc2 publicsuffix opendkim opendkim-tools
    openssl ca-certificates libidn12 m4 libwrap0 libldap-2.5-0 libsasl2-2 libdb5.3
    systemd python3-seccomp apparmor mandoc man-db groff-base binutils
    libwww-perl
    util-linux procps gcc g++ libc6-dev make
)
unpacked_sendmail=(sendmail-bin sendmail-cf)
unpacked_exim=(exim4-daemon-heavy exim4-base exim4-config)
unpacked_rt=(rt5-clients)

say() { printf 'install: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing() {
    local name
    for name in "$@"; do installed "$name" || printf '%s\n' "$name"; done
}

# Runs a command as root.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo --preserve-env=DEBIAN_FRONTEND,PATH "$@"
    else fail "must be root to run: $*; become root, or install sudo"
    fi
}

# Runs a command quietly; what it said is shown when it fails.
quietly() {
    local output
    if ! output=$("$@" 2>&1); then
        printf '%s\n' "$output" | tail -n 25 >&2
        fail "this failed: $*"
    fi
}

# Package lists older than a day, or none, are fetched anew, once a run.
lists_fresh=
refresh_lists() {
    [ -z "$lists_fresh" ] || return 0
    if [ -z "$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -mmin -1440 2>/dev/null | head -n 1)" ]; then
        say "fetching package lists"
        quietly as_root apt-get -qq update
    fi
    lists_fresh=yes
}

# Installs packages without starting any service: policy-rc.d is the administrator's word to invoke-rc.d, and what was
# there before is put back.
install_packages() {
    local policy=/usr/sbin/policy-rc.d saved=
    refresh_lists
    say "installing $*"
    if [ -e "$policy" ]; then
        saved=$(mktemp)
        cp -p "$policy" "$saved"
    fi
    # shellcheck disable=SC2064  # expanded now: the names are local.
    trap "restore_policy '$policy' '$saved'" EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 0755 "$policy"
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends --no-remove \
        -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold install "$@"
    restore_policy "$policy" "$saved"
    trap - EXIT
}

restore_policy() {
    if [ -n "$2" ]; then
        as_root cp -p "$2" "$1"
        rm -f "$2"
    else
        as_root rm -f "$1"
    fi
}

# Unpacks packages into a folder, without installing them.
unpack() {
    local into=$1 work package
    shift
    refresh_lists
    say "unpacking $* into $into"
    work=$(mktemp -d)
    # apt's own unprivileged user downloads.
    chmod 0777 "$work"
    (cd "$work" && quietly apt-get -qq download "$@")
    rm -rf "$into.new"
    mkdir -p "$into.new"
    for package in "$work"/*.deb; do quietly dpkg -x "$package" "$into.new"; done
    rm -rf "$work" "$into"
    mv "$into.new" "$into"
}

system_user() {
    getent group "$1" >/dev/null || as_root groupadd --system "$1"
    getent passwd "$1" >/dev/null ||
        as_root useradd --system --gid "$1" --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$1"
}

# Postfix beside an MTA that apt would remove. It is told its places by main.cf; its libraries are found by a path.
unpack_postfix() {
    [ -x "$peers/postfix/usr/sbin/postfix" ] || unpack "$peers/postfix" postfix
    local program tool
    mkdir -p "$peers/bin"
    for program in postconf postfix postmap postqueue postsuper postcat postlog postdrop postalias sendmail smtp-source; do
        tool=$peers/postfix/usr/sbin/$program
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' \
            "$peers/postfix/usr/lib/postfix" "$tool" >"$peers/bin/$program"
        chmod 0755 "$peers/bin/$program"
    done
    system_user postfix
    getent group postdrop >/dev/null || as_root groupadd --system postdrop
}

install_postfix() {
    if [ "${1:-}" != --unpack ]; then
        if installed postfix; then
            rm -rf "$peers/bin"
            return
        fi
        if ! dpkg-query -W -f '${db:Status-Status} ${Provides}\n' 2>/dev/null |
            grep -Eq '^installed .*\bmail-transport-agent\b'; then
            echo 'postfix postfix/main_mailer_type select No configuration' | as_root debconf-set-selections
            install_packages postfix
            return
        fi
        say "another MTA is installed and stays"
    fi
    unpack_postfix
}

# PostgreSQL's programs. Its package would make a cluster for the whole machine, unless it is told not to.
install_postgres() {
    local settings=/etc/postgresql-common/createcluster.conf saved failed
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && return
    installed postgresql-common || install_packages postgresql-common
    saved=$(mktemp)
    cp -p "$settings" "$saved"
    printf 'create_main_cluster = false\n' | as_root tee -a "$settings" >/dev/null
    # In a shell of its own, so that the settings are put back when it fails, too.
    if (install_packages postgresql); then failed=; else failed=yes; fi
    as_root cp -p "$saved" "$settings"
    rm -f "$saved"
    [ -z "$failed" ] || fail "PostgreSQL is missing"
}

command -v dpkg >/dev/null && command -v apt-get >/dev/null ||
    fail "this is no Debian: install Postfix, Dovecot, dnsmasq, OpenDKIM, OpenDMARC, dkimpy, pyspf, swaks, m4 by hand"

mapfile -t wanted < <(missing "${packages[@]}")
[ ${#wanted[@]} -eq 0 ] || install_packages "${wanted[@]}"
install_postfix "$@"
install_postgres
# Sendmail conflicts with Postfix, but runs from a folder of its own.
[ -x "$peers/sendmail/usr/libexec/sendmail/sendmail" ] || unpack "$peers/sendmail" "${unpacked_sendmail[@]}"
# Exim conflicts as well. It insists on the user that Debian's package makes.
[ -x "$peers/exim/usr/sbin/exim4" ] || unpack "$peers/exim" "${unpacked_exim[@]}"
# RT's client of its mail gateway depends on an MTA that would be installed with it.
[ -x "$peers/rt/usr/bin/rt-mailgate-5" ] || unpack "$peers/rt" "${unpacked_rt[@]}"
system_user Debian-exim
# Prometheus' package starts a service; only its tools are needed.
[ -x "$peers/prometheus/usr/bin/promtool" ] || unpack "$peers/prometheus" prometheus
