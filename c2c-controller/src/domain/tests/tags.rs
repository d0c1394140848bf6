//! Tags: who gets one, and that there are only so many.

use super::*;

#[test]
fn a_router_keeps_its_tag_without_a_policy_and_an_app_is_no_router() {
    let mut world = World::default();
    let hold = |id: &str| Command::HoldTag(AppId::parse("id", id).unwrap());
    let held = |tag, id: &str| Change::TagHeld(TagHeld { tag, app: AppId::parse("id", id).unwrap() });
    let [one, two, three] = [1, 2, 3].map(|tag| Tag::new(tag).unwrap());
    assert_eq!(world.run(0, hold("router")).unwrap(), [held(one, "router")]);
    assert_eq!(world.run(0, hold("router")).unwrap(), [], "it has it");
    let named = policy("router", "b", "1");
    assert_eq!(world.allow(0, &named), (1, 2));
    let app = AppId::parse("id", "b").unwrap();
    assert_eq!(world.run(0, hold("b")), Err(Refusal::TagOfAnApp(app.clone())));
    let removed = world.run(5, Command::Remove(named)).unwrap();
    let freed = Change::TagFreed(TagFreed { tag: two, app, at: Timestamp(5) });
    assert_eq!(removed[1..], [freed], "the router's is not freed");
    assert_eq!(world.run(5, hold("other")).unwrap(), [held(three, "other")], "2 is in quarantine");
    assert_eq!(world.run(5, hold("b")).unwrap(), [held(two, "b")], "but for who had it");
    assert_eq!(world.state.tags().map(|(tag, _)| tag.get()).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn many_policies_fit_or_none_of_them() {
    let mut world = World::default();
    let all = (1..=u16::MAX).map(|n| policy(&format!("app-{n}"), &format!("app-{n}"), "1"));
    let mut all: Vec<Policy> = all.collect();
    all.push(policy("one-more", "one-more", "1"));
    assert_eq!(world.run(0, allow_all(all.clone())), Err(Refusal::TagsExhausted));
    all.pop();
    assert_eq!(world.run(0, allow_all(all)).unwrap().len(), usize::from(u16::MAX));
}

#[test]
fn all_tags_can_be_used_and_then_no_more() {
    let mut world = World::default();
    let hub = "hub";
    for n in 2..=u16::MAX {
        let spoke = policy(hub, &format!("app-{n}"), "1");
        let changes = vec![Change::PolicyPut(TaggedPolicy {
            policy: spoke,
            source_tag: Tag::new(1).unwrap(),
            destination_tag: Tag::new(n).unwrap(),
        })];
        world.state.apply(&Commit { revision: world.state.revision().next(), changes });
    }
    let one_more = Command::Allow(policy(hub, "one-more", "1"));
    assert_eq!(world.run(0, one_more.clone()), Err(Refusal::TagsExhausted));
    world.run(0, Command::Remove(policy(hub, "app-77", "1"))).unwrap();
    assert_eq!(world.run(1, one_more.clone()), Err(Refusal::TagsExhausted), "quarantined");
    world.run(QUARANTINE_SECONDS, one_more).unwrap();
    assert_eq!(world.state.policy(&policy(hub, "one-more", "1")).unwrap().destination_tag.get(), 77);
}
