#!/bin/bash
# The first process of a guest that `cargo xtask vm` boots: mounts what the tests
# need, runs of every program in /tests what the list beside it names, and powers
# off. What it prints is read by xtask/src/vm/machine.rs.

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mkdir -p /sys/fs/cgroup
# Nothing here makes its device node when it is first asked for.
modprobe tun
ip link set lo up
# All namespaces of the kernel share one table of neighbours, 1024 entries, and of a
# hundred pods that all look for each other at this pace none is old enough to go.
for family in ipv4 ipv6; do
    for threshold in gc_thresh3 gc_thresh2; do
        echo 16384 >"/proc/sys/net/$family/neigh/default/$threshold"
    done
done
export HOME=/tmp TERM=dumb POLICY_AGENT=/usr/bin/policy-agent RUST_BACKTRACE=0
# Emulated: see tests/src/lab/pace.rs. A change under traffic takes seconds here.
export POLICY_LAB_SLOWNESS=20 POLICY_FLIPS=20

echo "vm: $(cat /proc/sys/kernel/osrelease)"
case $(cat /proc/cmdline) in
*policy.shell*) bash -i ;;
*)
    policy-agent preflight || echo "vm: failed: preflight"
    for list in /tests/*.list; do
        program=${list%.list}
        echo "vm: ${program#/tests/}"
        # One at a time: without acceleration there is nothing to gain.
        "$program" --test-threads=1 --exact $(cat "$list") ||
            echo "vm: failed: ${program#/tests/}"
    done
    echo "vm: all test programs have ended"
    ;;
esac
echo o >/proc/sysrq-trigger
sleep 60
