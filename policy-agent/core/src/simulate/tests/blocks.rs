//! Blocks of addresses.

use super::*;

#[test]
fn except_takes_from_its_own_block_only() {
    let rules = [
        "allow 20.0.0.0/8 !20.1.0.0/16 : TCP/80",
        "allow 20.1.2.0/24 : TCP/81",
        "allow 20.1.0.0/16 !20.1.2.0/24 : TCP/82",
    ];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &[
            "20.2.0.1 > a/db 80/TCP",
            "20.1.2.3 > a/db 81/TCP",
            "20.1.3.3 > a/db 82/TCP",
        ],
        &[
            "20.1.3.3 > a/db 80/TCP",
            "20.1.2.3 > a/db 80/TCP",
            "20.1.2.3 > a/db 82/TCP",
            "20.2.0.1 > a/db 81/TCP",
            "21.0.0.1 > a/db 80/TCP",
        ],
    );
}

#[test]
fn nested_blocks_add_up_along_the_chain() {
    let rules = [
        "allow 0.0.0.0/0 : TCP/1",
        "allow 20.0.0.0/8 : TCP/2",
        "allow 20.0.0.0/24 : TCP/3",
        "allow 20.0.0.7/32 : TCP/4",
    ];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &[
            "20.0.0.7 > a/db 1/TCP",
            "20.0.0.7 > a/db 2/TCP",
            "20.0.0.7 > a/db 3/TCP",
            "20.0.0.7 > a/db 4/TCP",
            "20.0.0.8 > a/db 3/TCP",
            "20.1.0.7 > a/db 2/TCP",
            "1.1.1.1 > a/db 1/TCP",
        ],
        &[
            "20.0.0.8 > a/db 4/TCP",
            "20.1.0.7 > a/db 3/TCP",
            "1.1.1.1 > a/db 2/TCP",
        ],
    );
}

#[test]
fn a_pod_inside_a_block_gets_what_the_block_and_the_selector_grant() {
    let rules = ["allow 10.1.0.0/16 : TCP/80", "allow app=web : TCP/443"];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &[
            "a/web > a/db 80/TCP",
            "a/web > a/db 443/TCP",
            "a/other > a/db 80/TCP",
            "10.1.9.9 > a/db 80/TCP",
        ],
        &[
            "a/other > a/db 443/TCP",
            "10.1.9.9 > a/db 443/TCP",
            "b/web > a/db 80/TCP",
            "a/web > a/db 80/TCP v6",
        ],
    );
}

#[test]
fn blocks_are_of_one_family_and_isolation_of_both() {
    let rules = ["allow 0.0.0.0/0 : TCP/80"];
    check(
        &cluster([policy("a/p", "app=db", Some(&rules), None)]),
        &["a/web > a/db 80/TCP", "1.1.1.1 > a/db 80/TCP"],
        &["a/web > a/db 80/TCP v6", "2001::1 > a/db 80/TCP"],
    );
}
