//! A Cloud Controller as far as the controller needs one: lists of apps, spaces and roles by pages, for the token of our
//! client, and whatever else a test wants it to answer.

use crate::stub::{self, Answer, Asked};
use crate::uaa::CLIENT_TOKEN;
use c2c_proto::tls::Files;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// Answers instead of the usual when it gives something.
type Trick = Box<dyn FnMut(&Asked) -> Option<Answer> + Send>;

#[derive(Default)]
pub(crate) struct World {
    /// The space of each app.
    pub(crate) apps: BTreeMap<String, String>,
    /// Users and the spaces in which they are space developers.
    pub(crate) developers: BTreeSet<(String, String)>,
    /// All security groups.
    pub(crate) groups: Vec<Value>,
    /// When they changed last; nothing: it does not say.
    pub(crate) changed: Option<String>,
    /// Every request that came with our token, without its token.
    pub(crate) asked: Vec<String>,
    pub(crate) trick: Option<Trick>,
}

#[derive(Clone)]
pub(crate) struct CloudController {
    pub(crate) url: String,
    world: Arc<Mutex<World>>,
}

impl CloudController {
    pub(crate) async fn start(files: &Files) -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let url = stub::serve(files, {
            let world = Arc::clone(&world);
            move |asked| world.lock().unwrap().answer(asked)
        });
        Self { url: url.await, world }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn app(&self, app: &str, space: &str) {
        self.world().apps.insert(app.to_owned(), space.to_owned());
    }

    pub(crate) fn developer(&self, user: &str, space: &str) {
        self.world().developers.insert((user.to_owned(), space.to_owned()));
    }

    pub(crate) fn trick(&self, trick: impl FnMut(&Asked) -> Option<Answer> + Send + 'static) {
        self.world().trick = Some(Box::new(trick));
    }

    pub(crate) fn no_trick(&self) {
        self.world().trick = None;
    }

    /// What was asked since this was called last.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.world().asked)
    }
}

impl World {
    fn answer(&mut self, asked: &Asked) -> Answer {
        let path = asked.line.split('?').next().unwrap();
        if path == "GET /internal/v4/asg_latest_update" {
            return self
                .trick
                .as_mut()
                .and_then(|trick| trick(asked))
                .unwrap_or_else(|| self.latest_update());
        }
        if asked.header("authorization") != format!("bearer {CLIENT_TOKEN}") {
            return Answer::Json(
                401,
                r#"{"errors":[{"code":1000,"title":"CF-InvalidAuthToken"}]}"#.to_owned(),
            );
        }
        self.asked.push(asked.line.clone());
        if let Some(answer) = self.trick.as_mut().and_then(|trick| trick(asked)) {
            return answer;
        }
        match path {
            "GET /v3/apps" => page(asked, self.apps(asked)),
            "GET /v3/roles" => page(asked, self.roles(asked)),
            "GET /v3/security_groups" => page(asked, self.groups.clone()),
            "GET /v3/spaces" => {
                let spaces: BTreeSet<&String> = self.apps.values().collect();
                page(asked, spaces.into_iter().map(|space| json!({"guid": space})).collect())
            }
            _ => Answer::Json(404, r#"{"errors":[{"code":10000,"title":"CF-NotFound"}]}"#.to_owned()),
        }
    }

    fn latest_update(&self) -> Answer {
        match &self.changed {
            Some(changed) => latest_update(changed),
            None => Answer::Json(404, "{}".to_owned()),
        }
    }

    fn apps(&self, asked: &Asked) -> Vec<Value> {
        let apps = self.apps.iter().filter(|(app, _)| asked.lists("guids", app));
        let shown = apps.map(|(app, space)| {
            json!({
                "guid": app, "name": format!("name-of-{app}"), "state": "STARTED",
                "lifecycle": {"type": "buildpack", "data": {"buildpacks": [], "stack": "cflinuxfs4"}},
                "relationships": {"space": {"data": {"guid": space}}, "current_droplet": {"data": null}},
            })
        });
        shown.collect()
    }

    fn roles(&self, asked: &Asked) -> Vec<Value> {
        let roles = self.developers.iter().filter(|(user, space)| {
            asked.lists("types", "space_developer")
                && asked.lists("user_guids", user)
                && asked.lists("space_guids", space)
        });
        let shown = roles.map(|(user, space)| {
            let to = |guid: &str| json!({"data": {"guid": guid}});
            let relationships = json!({"user": to(user), "space": to(space), "organization": {"data": null}});
            json!({"guid": format!("{user}-{space}"), "type": "space_developer", "relationships": relationships})
        });
        shown.collect()
    }
}

pub(crate) fn latest_update(changed: &str) -> Answer {
    Answer::Json(200, json!({"last_update": changed}).to_string())
}

/// A security group for a port, bound to a space for running.
pub(crate) fn group(guid: &str, name: &str, port: u16, space: &str) -> Value {
    json!({
        "guid": guid, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "name": name,
        "globally_enabled": {"running": false, "staging": true},
        "rules": [{"protocol": "tcp", "destination": "192.0.2.0/24", "ports": port.to_string(), "log": false}],
        "relationships": {"running_spaces": {"data": [{"guid": space}]}, "staging_spaces": {"data": []}},
        "links": {"self": {"href": format!("https://api.example.org/v3/security_groups/{guid}")}},
    })
}

/// The page that is asked for, as Cloud Controller writes it.
pub(crate) fn page(asked: &Asked, all: Vec<Value>) -> Answer {
    let number = |key, default| asked.query(key).map_or(default, |number| number.parse().unwrap());
    let (per_page, page): (usize, usize) = (number("per_page", 50), number("page", 1));
    let total = all.len();
    let resources: Vec<Value> = all.into_iter().skip((page - 1) * per_page).take(per_page).collect();
    let next = (page * per_page < total).then(|| json!({"href": "https://elsewhere.example.org/v3/next"}));
    let pagination =
        json!({"total_results": total, "total_pages": total.div_ceil(per_page).max(1), "next": next});
    Answer::Json(200, json!({"pagination": pagination, "resources": resources}).to_string())
}
