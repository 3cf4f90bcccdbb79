#!/bin/bash
# The first process of a guest that `cargo xtask vm` boots: mounts what the tests
# need, runs every program in /tests, and powers off. What it prints is read by
# xtask/src/vm/machine.rs.

# Emulated programs are slow; one that takes longer hangs.
LIMIT=1500

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mkdir -p /sys/fs/cgroup
ip link set lo up
export HOME=/tmp TERM=dumb POLICY_AGENT=/usr/bin/policy-agent RUST_BACKTRACE=0

filter=
shell=
for word in $(cat /proc/cmdline); do
    case $word in
    policy.filter=*) filter=${word#policy.filter=} ;;
    policy.shell) shell=yes ;;
    esac
done

echo "vm: $(cat /proc/sys/kernel/osrelease)"
if [ -n "$shell" ]; then
    bash -i
else
    policy-agent preflight || echo "vm: failed: preflight"
    for program in /tests/*; do
        echo "vm: ${program#/tests/}"
        # One at a time: without acceleration there is nothing to gain.
        timeout "$LIMIT" "$program" --test-threads=2 $filter ||
            echo "vm: failed: ${program#/tests/}"
    done
    echo "vm: all test programs have ended"
fi
echo o >/proc/sysrq-trigger
sleep 60
