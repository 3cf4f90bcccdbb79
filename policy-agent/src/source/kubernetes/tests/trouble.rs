//! Bad days: what changes, and above all what does not.

use super::*;

const POLICIES: &str = "networkpolicies";

#[tokio::test]
async fn a_version_that_is_refused_before_the_watch_is_listed_again() {
    let mut bed = Bed::new(POLICIES).await;
    let stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    stream.end().await;
    let watch = bed.server.call().await;
    assert_eq!(watch.watch_after(), Some("5"));
    watch.refuse(410, "Gone").await;
    let _stream = bed.stream_list(&[policy("q", 8)], "9").await;
    bed.until("the list", |_, store| names(store) == ["q"])
        .await;
}

#[tokio::test]
async fn a_watch_goes_on_where_it_ended() {
    let mut bed = Bed::new(POLICIES).await;
    let mut stream = bed.stream_list(&[], "5").await;
    stream.event("ADDED", &policy("p", 7)).await;
    bed.until("an event", |_, store| names(store) == ["p"])
        .await;
    stream.end().await;
    let watch = bed.server.call().await;
    assert_eq!(watch.watch_after(), Some("7"));
    let mut stream = watch.stream().await;
    stream.bookmark("12").await;
    stream.event("DELETED", &policy("p", 13)).await;
    stream.bookmark("14").await;
    bed.until("the next", |_, store| names(store).is_empty())
        .await;
    stream.end().await;
    assert_eq!(bed.server.call().await.watch_after(), Some("14"));
}

#[tokio::test]
async fn an_event_that_is_cut_off_comes_again() {
    let mut bed = Bed::new(POLICIES).await;
    let mut stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    let event = json!({"type": "MODIFIED", "object": open_policy("p", 6)}).to_string();
    stream.text(&event[..event.len() / 2]).await;
    drop(stream);
    let watch = bed.server.call().await;
    assert_eq!(watch.watch_after(), Some("5"));
    assert_eq!(names(bed.store()), ["p"]);
    let mut stream = watch.stream().await;
    stream.event("MODIFIED", &open_policy("p", 6)).await;
    bed.until("the event", |_, store| names(store) == ["p+"])
        .await;
}

#[tokio::test]
async fn a_token_that_is_refused_is_read_again_and_nothing_is_lost() {
    let mut bed = Bed::new(POLICIES).await;
    let stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    std::fs::write(bed.dir.join("token"), "second").unwrap();
    stream.end().await;
    let watch = bed.server.call().await;
    assert_eq!(watch.token(), "first");
    watch.refuse(401, "Unauthorized").await;
    let watch = bed.server.call().await;
    assert_eq!(watch.token(), "second");
    assert_eq!(watch.watch_after(), Some("5"));
    bed.meanwhile("what was known stays", |_, store| names(store) == ["p"])
        .await;
    let mut stream = watch.stream().await;
    stream.event("ADDED", &policy("q", 6)).await;
    bed.until("it goes on", |cluster, store| {
        names(store) == ["p", "q"] && state(cluster, Feed::Policies).disconnected.is_none()
    })
    .await;
}

#[tokio::test]
async fn an_object_that_does_not_decode_leaves_its_last_good_version() {
    let mut bed = Bed::new(POLICIES).await;
    let mut stream = bed.stream_list(&[open_policy("p", 3)], "5").await;
    bed.synced().await;
    stream.event("MODIFIED", &undecodable("p", 6)).await;
    stream.event("ADDED", &undecodable("new", 7)).await;
    stream.event("ADDED", &open_policy("q", 8)).await;
    // Of the new one only the existence is known: it isolates, and allows nothing.
    bed.until("the others", |_, store| {
        names(store).contains(&"q+".to_owned())
    })
    .await;
    let allows = |store: &Store, name: &str| {
        let mut policies = store.policies().values();
        let policy = policies.find(|policy| &*policy.id.name == name).unwrap();
        let rules = policy.ingress.iter().flatten();
        rules
            .filter(|rule| rule.peers == policy_core::model::Peers::Any)
            .count()
    };
    assert_eq!(allows(bed.store(), "p"), 1);
    assert_eq!(allows(bed.store(), "new"), 0);
    let problems = bed.cluster.diagnostics();
    let objects: Vec<&str> = problems.iter().map(|found| &*found.object).collect();
    assert_eq!(objects, ["NetworkPolicy a/new", "NetworkPolicy a/p"]);

    // Nor does a list change that.
    stream.expired().await;
    let list = [undecodable("p", 6), undecodable("new", 7)];
    let mut stream = bed.stream_list(&list, "9").await;
    bed.until("the list", |_, store| store.policies().len() == 2)
        .await;
    assert_eq!(allows(bed.store(), "p"), 1);
    assert_eq!(allows(bed.store(), "new"), 0);

    stream.event("MODIFIED", &policy("p", 10)).await;
    stream.event("DELETED", &undecodable("new", 11)).await;
    bed.until("it decodes again", |_, store| names(store) == ["p"])
        .await;
    assert_eq!(bed.cluster.diagnostics(), []);
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    let mut server = Server::start(POLICIES).await;
    server.stop().await;
    let mut bed = Bed::with(server, pace());
    bed.until("every feed says so", |cluster, _| {
        let mut states = cluster.states().values();
        states.all(|state| state.disconnected.is_some() && state.last_error.is_some())
    })
    .await;
    assert!(!bed.cluster.is_synced());
    assert_eq!(bed.cluster.diagnostics().len(), Feed::ALL.len());
    bed.server.restart().await;
    let _stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    assert_eq!(names(bed.store()), ["p"]);
    assert_eq!(bed.cluster.diagnostics(), []);
}

#[tokio::test]
async fn a_server_that_goes_away_changes_nothing_and_is_taken_up_again() {
    let mut bed = Bed::new(POLICIES).await;
    let _stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    bed.server.stop().await;
    bed.until("every feed says so", |cluster, _| {
        let mut states = cluster.states().values();
        states.all(|state| state.disconnected.is_some())
    })
    .await;
    bed.meanwhile("what was known stays", |cluster, store| {
        names(store) == ["p"] && cluster.is_synced()
    })
    .await;
    bed.server.restart().await;
    let watch = bed.server.call().await;
    assert_eq!(watch.watch_after(), Some("5"), "no list is needed");
    let mut stream = watch.stream().await;
    stream.event("ADDED", &policy("q", 6)).await;
    bed.until("it goes on", |_, store| names(store) == ["p", "q"])
        .await;
    bed.until("every feed is well", |cluster, _| {
        let mut states = cluster.states().values();
        states.all(|state| state.disconnected.is_none())
    })
    .await;
    assert_eq!(bed.cluster.diagnostics(), []);
    assert_eq!(state(&bed.cluster, Feed::Policies).lists, 1);
}

#[tokio::test]
async fn a_watch_that_falls_silent_is_opened_again() {
    let pace = Pace {
        idle: Duration::from_millis(100),
        ..pace()
    };
    let mut bed = Bed::with(Server::start(POLICIES).await, pace);
    let _silent = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    let watch = bed.server.call().await;
    assert_eq!(watch.watch_after(), Some("5"));
    assert_eq!(names(bed.store()), ["p"]);
}

#[tokio::test]
async fn a_role_that_lacks_a_verb_is_named() {
    let mut bed = Bed::new(POLICIES).await;
    bed.server.call().await.refuse(403, "Forbidden").await;
    bed.until("it says so", |cluster, _| {
        let state = state(cluster, Feed::Policies);
        let error = state.last_error.unwrap_or_default();
        error.contains("needs list and watch of networkpolicies")
    })
    .await;
    let problems = bed.cluster.diagnostics();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].path, "networkpolicies");
}

#[tokio::test]
async fn nonsense_is_no_news_and_in_the_end_everything_is_listed_again() {
    let mut bed = Bed::new(POLICIES).await;
    let mut stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    stream.text("{\"type\":\"DELETED\",\"object\":{}}\n").await;
    loop {
        let call = bed.server.call().await;
        assert_eq!(names(bed.store()), ["p"]);
        if call.is_streaming_list() {
            break;
        }
        assert_eq!(call.watch_after(), Some("5"));
        let mut stream = call.stream().await;
        stream.text("not an event\n").await;
    }
}

#[tokio::test]
async fn a_thousand_changes_in_a_moment_are_few_changes() {
    let mut bed = Bed::new(POLICIES).await;
    let mut stream = bed.stream_list(&[], "5").await;
    bed.synced().await;
    bed.woken = 0;
    let mut events = String::new();
    for version in 0..1000 {
        let name = format!("p{}", version % 10);
        let object = if version < 990 {
            policy(&name, version + 10)
        } else {
            open_policy(&name, version + 10)
        };
        events += &json!({"type": "MODIFIED", "object": object}).to_string();
        events += "\n";
    }
    stream.text(&events).await;
    bed.until("the last of them", |_, store| {
        let names = names(store);
        names.len() == 10 && names.iter().all(|name| name.ends_with('+'))
    })
    .await;
    assert!(bed.woken < 500, "woken {} times", bed.woken);
}
