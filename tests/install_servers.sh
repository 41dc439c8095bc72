#!/usr/bin/env bash
# Installs Debian's packages of the real servers and programs that the tests run against, those that are missing; as root
# with apt-get. Otherwise it says what is missing: those tests are skipped then, or fail where CI is set.
set -euo pipefail
have() { command -v "$1" >/dev/null; }
packages=()
have chromium || packages+=(chromium)                                             # the leaderboard page in a browser
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql) # the deployment's services
have radosgw || packages+=(radosgw)                                               # an S3 server: the gateway,
have ceph-mon || packages+=(ceph-mon)                                             # its monitor,
have ceph-osd || packages+=(ceph-osd)                                             # its disk
{ have ceph && have radosgw-admin; } || packages+=(ceph-common)                   # and its tools
[ ${#packages[@]} -gt 0 ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! have apt-get; then
  echo "Some tests cannot run here; as root: apt-get install --no-install-recommends ${packages[*]}" >&2
  exit 0
fi
echo "Installing ${packages[*]} ..."
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
