//! Containers and the controller's words in any order: at every moment the maps are what the whole world comes to, and
//! the disk holds the world that is enforced.

use super::*;
use crate::policy::mirror::reference::{APPS, Reference, SPACES, any_change};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    Change(Change),
    Add(u8, usize, usize),
    Remove(u8),
    Announce,
    Flush,
    Deliver,
    Cut,
    Connect,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => any_change().prop_map(Event::Change),
        4 => (2..5u8, 0..4usize, 0..3usize).prop_map(|(n, app, space)| Event::Add(n, app, space)),
        2 => (2..5u8).prop_map(Event::Remove),
        4 => Just(Event::Announce),
        4 => Just(Event::Flush),
        8 => Just(Event::Deliver),
        1 => Just(Event::Cut),
        2 => Just(Event::Connect),
    ]
}

struct Cell {
    enforcer: Enforcer<Fake>,
    reference: Reference,
}

impl Cell {
    fn add(&mut self, n: u8, app: usize, space: usize) {
        if self.enforcer.placed.contains_key(&address(n)) {
            return;
        }
        let place =
            Placed { space: SPACES[space].into(), workload: Workload::Running, ..place(APPS[app], n.into()) };
        self.enforcer.add(address(n), place).unwrap();
    }

    fn announce(&mut self) {
        if self.reference.stream.is_some()
            && let Some(said) = self.enforcer.mirror().announce()
        {
            self.reference.announced(&said);
        }
    }

    fn deliver(&mut self) {
        if let Some(update) = self.reference.outbox.pop_front()
            && self.enforcer.take([update]).is_err()
        {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.enforcer.mirror().close();
        self.reference.stream = None;
        self.reference.outbox.clear();
    }

    fn connect(&mut self) {
        let opening = self.enforcer.mirror().open();
        self.reference.open(&opening);
        self.enforcer.mirror().granted(&self.reference.store.clone());
        // What a resumed world leaves out is written down with the next word; here at once.
        self.enforcer.follow();
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Change(change) => self.reference.history.push(change),
            Event::Add(n, app, space) => self.add(n, app, space),
            Event::Remove(n) => self.enforcer.remove(address(n), &format!("s-{n}")).unwrap(),
            Event::Announce => self.announce(),
            Event::Flush => self.reference.flush(),
            Event::Deliver => self.deliver(),
            Event::Cut => self.cut(),
            Event::Connect => self.connect(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_maps_are_what_the_whole_comes_to(events in proptest::collection::vec(any_event(), 0..60)) {
        let dir = tempfile::tempdir().unwrap();
        let saved = Saved::new(dir.path());
        let mut cell = Cell {
            enforcer: leased(roomy()),
            reference: Reference { store: "s".into(), ..Reference::default() },
        };
        cell.enforcer.mirror().close();
        cell.enforcer.remember_in(saved.clone());
        for event in events {
            let said = format!("{event:?}");
            cell.happens(event);
            prop_assert_eq!(cell.enforcer.reconcile(CELL), Report::default(), "after {}", said);
            prop_assert_eq!(cell.enforcer.view().failure, None);
            let Some(world) = saved.world().unwrap() else { continue };
            let now = cell.enforcer.mirror().world();
            // A revision that changed nothing is not written down.
            prop_assert!(world.revision <= now.revision);
            prop_assert_eq!(&World { revision: now.revision, ..world }, now, "after {}", said);
        }
    }
}
