#!/bin/bash
# First process of a container that plays a BOSH VM: what its stemcell and the boot of its agent do.
# $1: device of the persistent disk; empty: none is attached.
set -euo pipefail
disk=${1:-}

# ---- kernel interfaces that Docker gives a container read-only ---------------------------------

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  # cgroup v2, in a namespace of its own. Only a group without processes hands controllers down.
  mount -o remount,rw /sys/fs/cgroup
  mkdir -p /sys/fs/cgroup/init
  while read -r pid; do
    # A process that has ended meanwhile needs no place.
    echo "$pid" 2> /dev/null > /sys/fs/cgroup/init/cgroup.procs || [ ! -e "/proc/$pid" ]
  done < /sys/fs/cgroup/cgroup.procs
  sed 's/[^ ][^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers > /sys/fs/cgroup/cgroup.subtree_control
else
  for controller in /sys/fs/cgroup/*/; do
    if mountpoint -q "$controller"; then mount -o remount,bind,rw "$controller"; fi
  done
fi

# What is not the container's own, but the machine's, stays as it is.
for settings in kernel vm fs; do
  mount --bind "/proc/sys/$settings" "/proc/sys/$settings"
  mount -o remount,bind,ro "/proc/sys/$settings"
done

# ---- layout, as stemcell and agent make it -----------------------------------------------------

cd /var/vcap
mkdir -p bosh/etc data/{jobs,packages,tmp} data/sys/{run,log} jobs monit/job packages store /etc/sv/monit
ln -sfn data/sys sys
chown root:vcap data/sys/{run,log} data/tmp
chmod 0770 data/tmp
chmod 0775 data/sys/{run,log}
mount --bind /home /home
mount -o remount,bind,nosuid /home
for package in data/packages/*/; do
  ln -sfn "/var/vcap/$package" "packages/$(basename "$package")"
done
# After a reboot the jobs are there and pre-start does not run again.
for job in jobs/*/; do
  [ ! -d "$job" ] || install -d -o root -g vcap -m 0770 {sys/run,sys/log,data}/"$(basename "$job")"
done
[ -z "$disk" ] || mount "$disk" store

# ---- monit, which runit keeps running on a stemcell --------------------------------------------

# Debian's monit needs these to be given. It looks every 2 s, that of a stemcell every 10.
(umask 077 && cat > bosh/etc/monitrc) << 'MONITRC'
set daemon 2
set logfile /var/vcap/monit/monit.log
set pidfile /run/monit.pid
set idfile /run/monit.id
set statefile /run/monit.state
set httpd port 2822 and use address 127.0.0.1
  allow localhost
include /var/vcap/monit/job/*.monitrc
MONITRC
touch monit/job/0000_none.monitrc
cd /etc/sv/monit
exec env -i PATH=/bin:/usr/bin:/sbin:/usr/sbin monit -I -c /var/vcap/bosh/etc/monitrc
