#!/bin/bash
# Tries the deb in a clean Debian 12: installs it beside Postfix, follows docs/install.md to a relayed ticket, upgrades, removes, purges, and
# looks at what is left. As root. Takes some minutes, and the network for Debian's packages; leaves nothing behind but a clean Debian in
# target/packages/debian12.tar, for the next time.
#
#   packaging/test.sh [DEB]
set -euo pipefail
cd "$(dirname "$0")/.."

deb=$(realpath "${1:-$(ls -t target/packages/*.deb | head -n 1)}")
clean=$PWD/target/packages/debian12.tar
root=$(mktemp -d /tmp/deskmilter-debian12.XXXXXX)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

say() { printf '== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

# In the other Debian; apart: with a network of its own, so that its ports are no others'. In the background the process that is
# become, and no shell around it, has the number that is waited for.
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }
become() {
    exec nsenter --net="/proc/$keeper/ns/net" chroot "$root" \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"
}
apart() { (become "$@"); }

keeper=
cleanup() {
    local pid
    for pid in /proc/[0-9]*; do
        if [ "$(readlink "$pid/root" 2>/dev/null)" = "$root" ]; then kill -KILL "${pid#/proc/}" 2>/dev/null || true; fi
    done
    [ -z "$keeper" ] || kill "$keeper" 2>/dev/null || true
    umount -l "$root/proc" "$root/dev" 2>/dev/null || true
    rm -rf --one-file-system "$root"
}
trap cleanup EXIT

if [ ! -e "$clean" ]; then
    say "making a clean Debian 12"
    command -v debootstrap >/dev/null || apt-get -qq -y install debootstrap
    debootstrap --variant=minbase bookworm "$root" "$mirror" >/dev/null
    tar -C "$root" -cf "$clean.new" . && mv "$clean.new" "$clean"
else
    tar -C "$root" -xf "$clean"
fi
chmod 0755 "$root"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
# There is no service manager: nothing is started by the packages.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" && chmod 0755 "$root/usr/sbin/policy-rc.d"
unshare --net sleep infinity &
keeper=$!
sleep 1
nsenter --net="/proc/$keeper/ns/net" ip link set lo up

say "Postfix"
inside apt-get -qq update
echo 'postfix postfix/main_mailer_type select Local only' | inside debconf-set-selections
inside apt-get -qq -y --no-install-recommends install postfix ca-certificates >/dev/null 2>&1
inside postconf -e 'myhostname = mx.acme.example' 'mydestination = acme.example, localhost' 'maillog_file = /var/log/mail.log' \
    'local_recipient_maps =' 'alias_maps =' 'compatibility_level = 3.6'
inside postconf -n >"$root/before"
cp -a "$root/etc/postfix" "$root/postfix-before"

say "install"
cp "$deb" "$root/tmp/deskmilter.deb"
inside apt-get -qq -y install --no-install-recommends /tmp/deskmilter.deb
inside deskmilter check >/dev/null || fail "the configuration that was installed is wrong"
inside postconf -n | diff "$root/before" - || fail "the package changed Postfix"
[ "$(inside stat -c '%a %U %G' /etc/deskmilter/deskmilter.toml)" = '640 root deskmilter' ] || fail "mode of the configuration"
[ "$(inside stat -c '%a %U %G' /var/lib/deskmilter)" = '700 deskmilter deskmilter' ] || fail "mode of the state"
[ "$(inside stat -c '%a %U %G' /var/spool/postfix/deskmilter)" = '2750 deskmilter postfix' ] || fail "mode of the sockets' folder"
[ "$(inside id -nG deskmilter)" = deskmilter ] || fail "deskmilter is a member of other groups"

# As the units do: the folders as root, the daemon as its user.
serve() {
    apart /usr/lib/deskmilter/socket-folders
    become sh -c 'umask 077; exec "$@"' sh setpriv --reuid deskmilter --regid deskmilter --init-groups --no-new-privs \
        --bounding-set=-all deskmilter serve >>"$root/var/log/deskmilter.log" 2>&1 &
    daemon=$!
    for _ in $(seq 100); do
        tail -n 1 "$root/var/log/deskmilter.log" | grep -q ' ready ' && return
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    cat "$root/var/log/deskmilter.log" >&2
    fail "the daemon is not ready"
}
serve
kill "$daemon"; wait "$daemon" || fail "the daemon as installed did not end well"

say "the guide, step by step"
guide=$root/usr/share/doc/deskmilter/docs/install.md
# The commands and the configuration are those of the document: what stands in its marked blocks.
block() { awk -v mark="<!-- $1 -->" '$0 == mark { wanted = 1; next } wanted && /^```/ { if (inside) exit; inside = 1; next } inside' "$guide"; }
become deskmilter sandbox --listen 127.0.0.1:5870 --directory /srv/desk --domain acme.example --password-file /srv/acme.password \
    >"$root/srv/sandbox.log" 2>&1 &
for _ in $(seq 100); do [ -s "$root/srv/acme.password" ] && [ -e "$root/srv/desk/ca.pem" ] && break; sleep 0.1; done
block password >"$root/tmp/password.sh"
[ -s "$root/tmp/password.sh" ] || fail "no block \"password\" in install.md"
sed 's/^editor .*/cat \/srv\/acme.password > \/etc\/deskmilter\/acme.password/' -i "$root/tmp/password.sh"
apart sh -eu /tmp/password.sh
block configuration >"$root/etc/deskmilter/deskmilter.toml"
[ -s "$root/etc/deskmilter/deskmilter.toml" ] || fail "no block \"configuration\" in install.md"
# The sandbox is the endpoint: another host, port and authority; no name server is there.
cp "$root/srv/desk/ca.pem" "$root/etc/deskmilter/ca.pem"
sed -i 's/^host = .*/host = "localhost"\nport = 5870\nca_file = "ca.pem"/' "$root/etc/deskmilter/deskmilter.toml"
chmod 0644 "$root/etc/deskmilter/ca.pem"
apart deskmilter check >/dev/null
serve
apart postfix start >/dev/null 2>&1
block attach >"$root/tmp/attach.sh"
[ -s "$root/tmp/attach.sh" ] || fail "no block \"attach\" in install.md"
apart sh -eu /tmp/attach.sh

say "a message"
apart smtp-source -f jane@customer.example -t support@acme.example -S help 127.0.0.1:25
for _ in $(seq 300); do [ -n "$(ls "$root/srv/desk/tickets" 2>/dev/null)" ] && break; sleep 0.1; done
[ "$(ls "$root/srv/desk/tickets" | wc -l)" = 1 ] || { cat "$root/var/log/mail.log" "$root/var/log/deskmilter.log"; fail "no ticket"; }
grep -q 'judged decision=tagged' "$root/var/log/deskmilter.log" || fail "not judged"
grep -q 'status=sent' "$root/var/log/mail.log" || fail "not sent"

say "upgrade: the configuration stays"
cp "$root/etc/deskmilter/deskmilter.toml" "$root/tmp/edited"
key=$(sha256sum <"$root/var/lib/deskmilter/site.key")
work=$(mktemp -d "$root/tmp/next.XXXXXX")
dpkg-deb -R "$deb" "$work"
sed -i 's/^Version: .*/Version: 0.1.0-2/' "$work/DEBIAN/control"
echo '# A newer one.' >>"$work/etc/deskmilter/deskmilter.toml"
(cd "$work" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb --root-owner-group -b "$work" "$root/tmp/next.deb" >/dev/null
inside apt-get -qq -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install /tmp/next.deb
cmp "$root/tmp/edited" "$root/etc/deskmilter/deskmilter.toml" || fail "the upgrade changed the configuration"
[ "$(inside stat -c '%a %U %G' /etc/deskmilter/deskmilter.toml)" = '640 root deskmilter' ] || fail "mode after the upgrade"
[ "$key" = "$(sha256sum <"$root/var/lib/deskmilter/site.key")" ] || fail "another site key after the upgrade"
inside dpkg-reconfigure deskmilter || fail "configuring twice"

say "remove: Postfix is as it was, configuration and state stay"
kill "$daemon"; wait "$daemon" || fail "the daemon did not end well"
apart apt-get -qq -y remove deskmilter
inside postconf -n | diff "$root/before" - || fail "postconf -n is not as it was"
diff -r "$root/postfix-before" "$root/etc/postfix" || fail "/etc/postfix is not as it was"
for kept in /etc/deskmilter/deskmilter.toml /etc/deskmilter/acme.password /var/lib/deskmilter/site.key; do
    [ -e "$root$kept" ] || fail "$kept went with the package"
done
[ ! -e "$root/var/spool/postfix/deskmilter" ] || fail "the sockets' folder stayed"
inside getent passwd deskmilter >/dev/null || fail "the user went with the package"

say "install again, remove again, purge: only what the administrator made stays"
inside apt-get -qq -y install --no-install-recommends /tmp/next.deb
cmp "$root/tmp/edited" "$root/etc/deskmilter/deskmilter.toml" || fail "installing again changed the configuration"
inside apt-get -qq -y purge deskmilter
for gone in /etc/deskmilter/deskmilter.toml /var/lib/deskmilter /var/spool/postfix/deskmilter /usr/bin/deskmilter /usr/lib/deskmilter /run/deskmilter \
    /run/deskmilter-root; do
    [ ! -e "$root$gone" ] || fail "$gone stayed"
done
[ -e "$root/etc/deskmilter/acme.password" ] || fail "a password file of the administrator's is gone"
left=$(cd "$root" && find etc usr var/lib -name '*deskmilter*' ! -path 'var/lib/dpkg/*' ! -path 'var/lib/apt/*' ! -path 'usr/src/*' | sort)
[ "$left" = etc/deskmilter ] || fail "left behind: $left"
inside postconf -n | diff "$root/before" - || fail "postconf -n is not as it was"
apart postfix stop >/dev/null 2>&1 || true
say "all is well"
