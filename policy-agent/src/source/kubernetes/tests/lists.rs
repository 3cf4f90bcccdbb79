//! Lists: complete or not at all, in whatever way the server has them.

use super::*;

const POLICIES: &str = "networkpolicies";

#[tokio::test]
async fn nothing_is_synced_before_every_kind_is() {
    let mut bed = Bed::new(POLICIES).await;
    bed.until("all other kinds are listed", |cluster, _| {
        let mut states = cluster.states().iter();
        states.all(|(feed, state)| state.synced == (*feed != Feed::Policies))
    })
    .await;
    assert!(!bed.cluster.is_synced());
    let _stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    assert_eq!(names(bed.store()), ["p"]);
    assert_eq!(state(&bed.cluster, Feed::Policies).listed, 1);
}

#[tokio::test]
async fn a_streaming_list_is_one_change() {
    let mut bed = Bed::new(POLICIES).await;
    let mut stream = bed.server.call().await.stream().await;
    stream.event("ADDED", &policy("p", 3)).await;
    stream.event("ADDED", &policy("q", 4)).await;
    stream.event("MODIFIED", &open_policy("q", 5)).await;
    stream.event("ADDED", &policy("r", 4)).await;
    stream.event("DELETED", &policy("r", 6)).await;
    bed.meanwhile("nothing is told", |_, store| names(store).is_empty())
        .await;
    stream.complete("6").await;
    bed.synced().await;
    assert_eq!(names(bed.store()), ["p", "q+"]);
}

#[tokio::test]
async fn a_list_that_is_cut_off_changes_nothing_and_is_asked_for_in_pages() {
    let mut bed = Bed::new(POLICIES).await;
    let mut stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    stream.expired().await;
    let mut list = bed.server.call().await.stream().await;
    list.event("ADDED", &policy("q", 6)).await;
    drop(list);
    let pages = bed.server.call().await;
    assert_eq!(pages.parameter("limit"), Some("500"), "{}", pages.uri());
    pages.half_page(&[policy("q", 6)]).await;
    let pages = bed.server.call().await;
    bed.meanwhile("what was known stays", |_, store| names(store) == ["p"])
        .await;
    pages.page(&[policy("q", 6)], "7", None).await;
    bed.until("the list", |_, store| names(store) == ["q"])
        .await;
    let watch = bed.server.call().await;
    assert_eq!(watch.watch_after(), Some("7"), "{}", watch.uri());
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_asked_for_pages() {
    for ignores in [false, true] {
        let mut bed = Bed::new(POLICIES).await;
        let call = bed.server.call().await;
        assert!(call.is_streaming_list());
        // Held until the end: it would be cut otherwise.
        let mut streams = Vec::new();
        if ignores {
            // It takes the question for a watch from anywhere.
            let mut stream = call.stream().await;
            stream.event("ADDED", &policy("p", 3)).await;
            stream.bookmark("5").await;
            streams.push(stream);
        } else {
            call.refuse(422, "Invalid").await;
        }
        let first = bed.server.call().await;
        assert_eq!(first.parameter("limit"), Some("500"), "{}", first.uri());
        assert_eq!(first.parameter("resourceVersion"), None);
        first.page(&[policy("p", 3)], "5", Some("more")).await;
        let second = bed.server.call().await;
        assert_eq!(second.parameter("continue"), Some("more"));
        bed.meanwhile("half a list is none", |_, store| names(store).is_empty())
            .await;
        second.page(&[policy("q", 4)], "5", None).await;
        bed.synced().await;
        assert_eq!(names(bed.store()), ["p", "q"]);
        let watch = bed.server.call().await;
        assert_eq!(watch.watch_after(), Some("5"), "{}", watch.uri());
        let mut watch = watch.stream().await;
        watch.event("DELETED", &policy("p", 6)).await;
        bed.until("the watch", |_, store| names(store) == ["q"])
            .await;
    }
}

#[tokio::test]
async fn a_slow_list_changes_nothing_until_it_is_complete() {
    let mut bed = Bed::new(POLICIES).await;
    let mut stream = bed.stream_list(&[policy("p", 3)], "5").await;
    bed.synced().await;
    stream.expired().await;
    let mut list = bed.server.call().await.stream().await;
    for name in ["q", "r", "s"] {
        list.event("ADDED", &policy(name, 6)).await;
        bed.meanwhile("what was known stays", |_, store| names(store) == ["p"])
            .await;
    }
    list.complete("7").await;
    bed.until("the list", |_, store| names(store) == ["q", "r", "s"])
        .await;
}

#[tokio::test]
async fn a_list_that_expires_between_pages_begins_anew() {
    let mut bed = Bed::new(POLICIES).await;
    bed.server.call().await.refuse(400, "BadRequest").await;
    let first = bed.server.call().await;
    first.page(&[policy("gone", 3)], "5", Some("more")).await;
    bed.server.call().await.refuse(410, "Expired").await;
    let again = bed.server.call().await;
    assert_eq!(again.parameter("continue"), None, "{}", again.uri());
    again.page(&[policy("p", 6)], "7", None).await;
    bed.synced().await;
    assert_eq!(names(bed.store()), ["p"]);
}

#[tokio::test]
async fn a_relist_is_one_change_and_tells_what_is_gone() {
    let mut bed = Bed::new(POLICIES).await;
    let objects = [policy("p", 3), policy("q", 3), policy("r", 3)];
    let mut stream = bed.stream_list(&objects, "5").await;
    bed.synced().await;
    stream.expired().await;
    let mut list = bed.server.call().await.stream().await;
    list.event("ADDED", &policy("q", 3)).await;
    list.event("ADDED", &open_policy("r", 8)).await;
    list.event("ADDED", &policy("s", 9)).await;
    bed.meanwhile("what was known stays", |_, store| {
        names(store) == ["p", "q", "r"]
    })
    .await;
    list.complete("9").await;
    bed.until("all of it at once", |_, store| {
        let names = names(store);
        assert!(
            names == ["p", "q", "r"] || names == ["q", "r+", "s"],
            "{names:?}"
        );
        names == ["q", "r+", "s"]
    })
    .await;
    assert_eq!(state(&bed.cluster, Feed::Policies).lists, 2);
}
