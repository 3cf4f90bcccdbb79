//! What does not run in guests, by name and with the reason: the one list of it.
//!
//! A test that is not named here runs on every kernel, so a new one does. A name
//! that no test has any more fails the task. The short run, which is what CI has
//! the time for, has all of `iface`, and of `datapath` and `enforcement` what asks the
//! kernel something that kernels differ in.

/// Test programs of which nothing runs in a guest, and why.
pub(super) const PROGRAMS: [(&str, &str); 2] = [
    (
        "agreement",
        "tens of thousands of probes, an hour when emulated, about the decision, which is the \
         same code on every kernel; what a kernel makes of that code is asked by `datapath`",
    ),
    (
        "kubernetes",
        "needs kube-apiserver and etcd, and asks nothing of the kernel that `enforcement` does not",
    ),
];

/// Tests of one program that are left out for one reason.
pub(super) struct LeftOut {
    /// The test program.
    pub(super) program: &'static str,
    /// Where.
    pub(super) wherever: Where,
    /// Why, and which test has its part.
    pub(super) reason: &'static str,
    /// Which.
    pub(super) tests: Tests,
}

/// Which tests of a program.
#[derive(Clone, Copy)]
pub(super) enum Tests {
    /// These.
    These(&'static [&'static str]),
    /// All but these, also those that are new.
    AllBut(&'static [&'static str]),
}

impl Tests {
    /// The names.
    pub(super) const fn named(self) -> &'static [&'static str] {
        match self {
            Self::These(names) | Self::AllBut(names) => names,
        }
    }

    /// Whether this test is one of them.
    pub(super) fn holds(self, test: &str) -> bool {
        match self {
            Self::These(names) => names.contains(&test),
            Self::AllBut(names) => !names.contains(&test),
        }
    }
}

/// Where tests are left out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// On all kernels.
    Everywhere,
    /// On the kernels of this series.
    On(&'static str),
    /// From the short run only.
    InShort,
}

/// Tests that are left out.
pub(super) const TESTS: [LeftOut; 12] = [
    LeftOut {
        program: "datapath",
        wherever: Where::Everywhere,
        reason: "hundreds of thousands of packets or millions, thousands of pods: about capacity, \
                 which no kernel version decides",
        tests: Tests::These(&[
            "flood::a_million_half_open_connections_to_an_allowed_port_end_no_live_one",
            "flood::a_million_denied_packets_leave_no_trace_in_the_tables",
            "flood::a_handshake_succeeds_in_the_middle_of_a_flood",
            "flood::a_pod_that_opens_connections_without_end_takes_its_own_share_only",
            "slots::pods_beyond_the_last_slot_are_told_get_one_that_is_free_again_and_take_nobodys",
            "shares::an_open_pod_pushes_out_nothing_that_others_need_when_they_become_isolated",
            "shares::many_pods_that_open_without_end_leave_room_for_one_that_comes_later",
            "tides::floods_larger_than_the_table_end_nothing_that_lives_and_a_handshake_begins_again",
            "tides::floods_of_fragments_end_no_datagram_unless_policy_allows_them_and_never_open_anything",
        ]),
    },
    LeftOut {
        program: "datapath",
        wherever: Where::Everywhere,
        reason: "two threads that race, for which there must be two processors",
        tests: Tests::These(&[
            "observe::sweeper_keeps_no_record_of_a_connection_that_opens_on_the_ports_of_one_that_ended",
        ]),
    },
    LeftOut {
        program: "datapath",
        wherever: Where::On("6.1"),
        reason: "about links of TCX; filters have tests of their own, `attach::filter_*`, \
                 `adopt::*_filters_*` and `front::filter_*`",
        tests: Tests::These(&[
            "attach::program_is_put_in_front_and_one_that_comes_before_it_is_noticed",
            "front::link_comes_first_again_in_place_and_nothing_else_is_left",
            "front::what_a_crash_left_on_the_way_to_the_front_is_swept_by_the_next_start",
        ]),
    },
    LeftOut {
        program: "iface",
        wherever: Where::Everywhere,
        reason: "must see hundreds of addresses in 500 looks at a storm, for which an emulated \
                 machine is too slow",
        tests: Tests::These(&["storm::an_address_is_never_seen_behind_another_pods_veth"]),
    },
    LeftOut {
        program: "enforcement",
        wherever: Where::Everywhere,
        reason: "sends every half millisecond and counts what is lost: about an emulated machine",
        tests: Tests::These(&[
            "cut::changes_cut_what_they_forbid_between_bridged_pods",
            "cut::changes_cut_what_they_forbid_between_routed_pods",
        ]),
    },
    LeftOut {
        program: "iface",
        wherever: Where::Everywhere,
        reason: "measures how long a reading takes: about an emulated machine",
        tests: Tests::These(&["storm::a_pod_with_too_many_addresses_holds_up_nothing"]),
    },
    LeftOut {
        program: "enforcement",
        wherever: Where::Everywhere,
        reason: "thousands of pods: about capacity, which no kernel version decides",
        tests: Tests::These(&["churn::nothing_stays_of_thousands_of_pods_that_came_and_went"]),
    },
    LeftOut {
        program: "enforcement",
        wherever: Where::On("6.1"),
        reason: "somebody else's links of TCX beside ours, or programs in ours; of filters \
                 `attach::filter_*` and `front::filter_*` of datapath",
        tests: Tests::These(&[
            "drift::links_that_somebody_detached_or_took_over_are_put_right",
            "drift::program_that_comes_before_ours_is_put_behind_it_and_named",
        ]),
    },
    LeftOut {
        program: "datapath",
        wherever: Where::InShort,
        reason: "about the decision, which is the same code on every kernel; four seconds each \
                 when emulated, most of which the verifier takes",
        tests: Tests::These(&[
            "earlier::what_is_known_already_stays_as_it_is_and_what_is_anothers_is_left",
            "errors::errors_about_anything_else_are_dropped_and_named",
            "errors::pod_may_report_of_what_it_got_and_of_nothing_else",
            "errors::revoked_connection_gets_no_more_errors",
            "fragments::fragment_follows_its_own_datagram_only",
            "fragments::fragment_that_comes_before_the_first_is_dropped",
            "fragments::fragments_of_open_pods_and_of_the_node_pass_and_are_not_noted",
            "fragments::fragments_to_a_service_are_judged_where_they_leave",
            "fragments::new_word_ends_what_fragments_follow",
            "observe::records_of_a_pod_that_nothing_isolates_are_apart_until_they_are_confirmed",
            "observe::sweeper_ends_what_nobody_answered_and_leaves_what_is_live",
            "observe::sweeper_removes_records_of_endpoints_that_are_gone",
            "packets::a_segment_passes_by_its_port_whatever_flags_it_has",
            "packets::headers_that_contradict_themselves_reach_open_pods_only_and_leave_none",
            "packets::more_extension_headers_than_are_walked_pass_no_isolated_pod_and_leave_none",
            "packets::options_of_ipv4_do_not_hide_the_ports",
            "packets::sources_that_are_not_the_pods_leave_no_pod",
            "packets::what_is_behind_three_tags_or_is_no_ip_passes_open_pods_only",
            "pins::link_where_a_map_belongs_is_refused",
            "pins::maps_that_nobody_pinned_are_said_to_be_missing",
            "pins::object_that_was_not_built_is_refused_before_anything_is_made",
            "pins::pins_of_another_version_are_reported_and_left",
            "protocols::arp_passes_whatever_policy_says_and_announces_the_pods_own_address_only",
            "protocols::echo_is_judged_and_its_answer_passes",
            "protocols::echo_that_may_only_be_sent_gets_its_answer_and_nothing_else",
            "protocols::routers_are_found_whatever_policy_says_and_no_pod_is_one",
            "protocols::sctp_is_judged_by_its_port_and_its_answers_pass",
            "services::denial_at_the_far_side_names_the_sender_and_its_direction",
            "services::far_side_asks_the_word_of_now_about_each_packet",
            "services::mark_of_a_pod_that_nothing_isolates_is_left_alone",
            "services::packet_without_a_mark_is_judged_only_if_an_isolated_pod_of_this_node_sent_it",
            "services::reply_passes_without_its_mark_by_its_record",
            "services::revoked_connection_gets_no_replies_and_a_live_one_goes_on",
            "services::service_over_ipv6_is_left_open_and_judged_like_one_over_ipv4",
            "services::source_leaves_open_what_may_be_allowed_and_drops_the_rest",
            "services::undecided_packet_of_an_unknown_sender_is_dropped",
            "services::undecided_packet_that_cannot_be_judged_is_dropped_and_others_are_not",
            "services::what_goes_to_the_node_is_left_open",
            "timeouts::answers_pass_up_to_the_limit_of_their_connections_state_and_not_beyond",
        ]),
    },
    LeftOut {
        program: "datapath",
        wherever: Where::InShort,
        reason: "loads the programs over and over, for a minute when emulated; the steps that \
                 kernels differ in are taken by `adopt` and by `restart` of enforcement",
        tests: Tests::These(&[
            "migrate::an_agent_that_ends_after_any_step_leaves_all_in_force_and_the_next_goes_on",
            "migrate::filter_is_handed_over_by_agents_that_end_on_the_way",
            "migrate::what_has_no_room_or_another_size_in_the_newer_layout_stays_in_force_in_the_older",
        ]),
    },
    LeftOut {
        program: "enforcement",
        wherever: Where::InShort,
        reason: "a quarter of a minute each when emulated; the full run has them",
        // What takes another way on an older kernel, or through another of its parts.
        tests: Tests::AllBut(&[
            "cni::hold::nothing_is_received_by_a_routed_pod_before_its_policies_are_in_force",
            "earlier::what_policy_allows_goes_on_and_what_it_denies_ends",
            "fragments::fragments_ride_on_no_verdict_but_their_own",
            "lifecycle::links_that_somebody_detached_are_found_and_attached_again",
            "lifecycle::what_happened_without_an_agent_is_found_at_its_start",
            "prefilter::prefilter_drops_denied_sources_before_routed_pods",
            "upgrade::a_newer_layout_takes_over_from_the_older_one_that_followed_it",
        ]),
    },
    LeftOut {
        program: "lab",
        wherever: Where::InShort,
        reason: "about the test bed, not about the product",
        tests: Tests::AllBut(&[]),
    },
];
