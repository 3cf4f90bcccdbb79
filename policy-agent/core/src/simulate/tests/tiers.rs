//! Tiers of ordered policies.

use super::*;

#[test]
fn tiers_are_asked_in_order_and_the_first_match_decides() {
    let store = cluster([
        ordered(
            Tier::Admin,
            10,
            "late",
            Some(&["deny ns:{} app=web : TCP/80-90"]),
            None,
        ),
        ordered(
            Tier::Admin,
            5,
            "early",
            Some(&[
                "allow ns:{} app=web : TCP/80",
                "pass ns:{} app=web : TCP/81",
                "log ns:{} : TCP/82",
            ]),
            None,
        ),
        policy(
            "a/np",
            "app=db",
            Some(&["allow app=web : TCP/81 TCP/82 TCP/99"]),
            None,
        ),
        ordered(
            Tier::Baseline,
            1,
            "base",
            Some(&["deny ns:{} app=other"]),
            None,
        ),
    ]);
    check(
        &store,
        &[
            "a/web > a/db 80/TCP",
            "a/web > a/db 81/TCP",
            "a/web > a/db 99/TCP",
            "a/web > a/web2 81/TCP",
            "b/client > a/web 80/TCP",
        ],
        &[
            "a/web > a/db 82/TCP",
            "a/web > a/db 100/TCP",
            "a/other > a/web 80/TCP",
            "a/web > a/web2 82/TCP",
        ],
    );
    let side = |text| ask(&store, text).ingress.expect("judged");
    assert_eq!(side("a/web > a/db 82/TCP").policies, ["late"]);
    assert_eq!(side("a/web > a/db 100/TCP").policies, ["a/np"]);
    assert_eq!(side("b/client > a/web 80/TCP").reason, Reason::NoRule);
}

#[test]
fn isolation_is_final_in_its_direction_and_no_baseline_is_asked_after_it() {
    // The baseline would allow it; the isolated pod never gets there.
    let baseline = ordered(
        Tier::Baseline,
        0,
        "base",
        Some(&["allow ns:{}"]),
        Some(&["deny 0.0.0.0/0"]),
    );
    check(
        &cluster([baseline, policy("a/np", "app=db", Some(&[]), None)]),
        &["a/db > a/web 80/TCP v6", "b/web > a/web 80/TCP v6"],
        &["a/web > a/db 80/TCP", "a/db > a/web 80/TCP"],
    );
}

#[test]
fn an_admin_policy_may_cut_the_own_node_and_networkpolicy_may_not() {
    let admin = ordered(
        Tier::Admin,
        0,
        "cut",
        None,
        Some(&["deny 192.168.0.0/24 : TCP/22"]),
    );
    check(
        &cluster([admin, policy("a/np", "app=db", None, Some(&[]))]),
        &["a/db > 192.168.0.1 23/TCP", "192.168.0.1 > a/db 22/TCP"],
        &["a/db > 192.168.0.1 22/TCP", "a/web > 192.168.0.1 22/TCP"],
    );
}
