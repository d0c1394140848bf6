//! Security groups: made, bound, deleted, and whom they concern.

use super::*;

#[test]
fn a_group_is_made_by_its_first_rules_and_bound_to_nothing() {
    let mut world = World::default();
    let [set, again, empty] = [&["80"][..], &["80", "0"], &[]].map(|ports| set("web", ports));
    assert_eq!(world.run(0, set.clone()).unwrap().len(), 1);
    assert_eq!(world.run(0, set).unwrap(), [], "these it has already");
    let web = world.state.group(&group("web")).unwrap();
    assert_eq!((web.rules, web.reaches), (rules_of(&["80"]), BTreeSet::new()));
    let to_space = binding("web", "running", "s");
    world.run(0, Command::Bind(to_space.clone())).unwrap();
    for rules in [again, empty] {
        world.run(0, rules).unwrap();
        assert_eq!(world.state.group(&group("web")).unwrap().reaches, [to_space.reach.clone()].into());
    }
    assert_eq!(world.state.group(&group("web")).unwrap().rules, GroupRules::default());
}

#[test]
fn binding_and_unbinding_change_what_is_not_so_already() {
    let mut world = World::default();
    let bindings = [("running", "s"), ("staging", "s"), ("running", "t"), ("running", "")];
    let bindings = bindings.map(|(workload, space)| binding("web", workload, space));
    let unknown = Refusal::UnknownGroup(group("web"));
    for command in [Command::Bind(bindings[0].clone()), Command::Unbind(bindings[0].clone()), delete("web")] {
        assert_eq!(world.run(0, command), Err(unknown.clone()));
    }
    assert_eq!(
        unknown.to_string(),
        "name: there is no security group web; expected one of `security-groups list`"
    );
    world.run(0, set("web", &["80"])).unwrap();
    for binding in &bindings {
        assert_eq!(world.run(0, Command::Unbind(binding.clone())).unwrap(), [], "not bound");
        assert_eq!(world.run(0, Command::Bind(binding.clone())).unwrap().len(), 1);
        assert_eq!(world.run(0, Command::Bind(binding.clone())).unwrap(), [], "bound already");
    }
    assert_eq!(world.run(0, Command::Unbind(bindings[0].clone())).unwrap().len(), 1);
    let left: BTreeSet<Reach> = bindings[1..].iter().map(|binding| binding.reach.clone()).collect();
    assert_eq!(world.state.group(&group("web")).unwrap().reaches, left);
}

#[test]
fn a_group_that_is_deleted_takes_its_bindings_with_it() {
    let mut world = World::default();
    world.run(0, set("web", &["80"])).unwrap();
    for space in ["s", "t"] {
        world.run(0, Command::Bind(binding("web", "running", space))).unwrap();
    }
    let removed = [
        Change::GroupUnbound(binding("web", "running", "s")),
        Change::GroupUnbound(binding("web", "running", "t")),
        Change::GroupRemoved(group("web")),
    ];
    assert_eq!(world.run(0, delete("web")).unwrap(), removed);
    world.run(0, set("web", &["80"])).unwrap();
    assert_eq!(
        world.state.groups_for(&[space("s")].into()),
        [],
        "a new group of the same name is bound to nothing"
    );
}

#[test]
fn a_cell_is_concerned_by_its_spaces_and_by_defaults() {
    let mut world = World::default();
    for (name, workload, space) in [
        ("all", "staging", ""),
        ("all", "running", "s"),
        ("s", "running", "s"),
        ("t", "running", "t"),
        ("t", "running", "u"),
    ] {
        world.run(0, set(name, &["80"])).unwrap();
        world.run(0, Command::Bind(binding(name, workload, space))).unwrap();
    }
    let concerned = |spaces: &[&str]| {
        let spaces = spaces.iter().map(|name| space(name)).collect();
        let reaches = |group: SecurityGroup| group.reaches.iter().map(Reach::to_string).collect::<Vec<_>>();
        let groups = world.state.groups_for(&spaces).into_iter();
        groups.map(|group| (group.name.to_string(), reaches(group).join(" "))).collect::<Vec<_>>()
    };
    let group = |name: &str, reaches: &str| (name.to_owned(), reaches.to_owned());
    let default = "all spaces for staging";
    assert_eq!(concerned(&[]), [group("all", default)]);
    assert_eq!(concerned(&["t"]), [group("all", default), group("t", "space t for running")]);
    let both = format!("space s for running {default}");
    assert_eq!(concerned(&["s", "x"]), [group("all", &both), group("s", "space s for running")]);
    let added = world.state.groups_bound(&[space("s")].into(), &[space("s"), space("t")].into());
    let added: Vec<_> = added.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(added, ["all", "s"], "what concerns a space that came, and nothing else");
}
