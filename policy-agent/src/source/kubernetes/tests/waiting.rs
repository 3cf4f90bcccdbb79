//! Questions whether all is up to date: `status --wait`.

use super::*;

const POLICIES: &str = "networkpolicies";

/// Every list is a short one.
fn short_lists() -> Pace {
    Pace {
        short_list: 1000,
        ..pace()
    }
}

#[tokio::test]
async fn a_short_list_is_asked_for_again() {
    let mut bed = Bed::with(Server::start(POLICIES).await, short_lists());
    let _stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    let question = bed.cluster.ask();
    let call = bed.server.call().await;
    assert!(call.is_streaming_list(), "{}", call.uri());
    bed.meanwhile("nobody has answered", |cluster, _| {
        !cluster.has_passed(question)
    })
    .await;
    let mut list = call.stream().await;
    list.event("ADDED", &policy("q", 6)).await;
    list.complete("7").await;
    bed.until("the answer", |cluster, store| {
        // What was there before the question is in whenever it is answered.
        assert!(!cluster.has_passed(question) || names(store) == ["q"]);
        cluster.has_passed(question)
    })
    .await;
}

#[tokio::test]
async fn a_list_that_was_asked_for_before_the_question_is_no_answer() {
    let mut bed = Bed::with(Server::start(POLICIES).await, short_lists());
    let call = bed.server.call().await;
    let question = bed.cluster.ask();
    let mut early = call.stream().await;
    early.complete("5").await;
    bed.until("it is taken in", |cluster, _| {
        assert!(!cluster.has_passed(question));
        cluster.is_synced()
    })
    .await;
    let _late = bed.stream_list(&[policy("p", 3)], "6").await;
    bed.until("the answer", |cluster, _| cluster.has_passed(question))
        .await;
    assert_eq!(names(bed.store()), ["p"]);
}

#[tokio::test]
async fn a_long_list_is_not_asked_for_again_if_the_watch_gets_there() {
    let mut bed = Bed::new(POLICIES).await;
    let mut stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    let question = bed.cluster.ask();
    let peek = bed.server.call().await;
    assert_eq!(peek.parameter("limit"), Some("1"), "{}", peek.uri());
    peek.page(&[policy("p", 3)], "9", Some("more")).await;
    stream.bookmark("8").await;
    bed.meanwhile("it is not there yet", |cluster, _| {
        !cluster.has_passed(question)
    })
    .await;
    stream.bookmark("10").await;
    let others = |cluster: &Cluster| state(cluster, Feed::Policies).lists;
    bed.until("the answer", |cluster, _| {
        // Every other feed is listed again: nothing ever happens there.
        cluster.has_passed(question)
    })
    .await;
    assert_eq!(others(&bed.cluster), 1);
}

#[tokio::test]
async fn a_long_list_is_asked_for_again_if_nothing_happens() {
    let mut bed = Bed::new(POLICIES).await;
    let _stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    let question = bed.cluster.ask();
    bed.server.call().await.page(&[], "9", None).await;
    let _list = bed.stream_list(&[policy("p", 3)], "9").await;
    bed.until("the answer", |cluster, _| cluster.has_passed(question))
        .await;
}

#[tokio::test]
async fn nobody_says_yes_while_the_server_is_away() {
    let mut bed = Bed::new(POLICIES).await;
    let _stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    bed.server.stop().await;
    bed.until("every feed says so", |cluster, _| {
        let mut states = cluster.states().values();
        states.all(|state| state.disconnected.is_some())
    })
    .await;
    let question = bed.cluster.ask();
    bed.meanwhile("no answer", |cluster, _| !cluster.has_passed(question))
        .await;
    bed.server.restart().await;
    let watch = bed.server.call().await;
    let _watch = watch.stream().await;
    bed.server.call().await.page(&[], "5", None).await;
    let _list = bed.stream_list(&[policy("p", 3)], "6").await;
    bed.until("the answer", |cluster, _| cluster.has_passed(question))
        .await;
}
