//! Plays a scenario against a server and tells where it answered otherwise.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use apiserver::resources::wire::protobuf::Envelope;

use crate::client::{Answer, Client, Collect, Watch};
use crate::compare::{Difference, View, diff, same_header, sort_verbs};
use crate::placeholders::Book;
use crate::scenario::{Scenario, Step, fill, look, text};

const HEADERS: [&str; 4] = ["Content-Type", "Warning", "Retry-After", "Location"];
/// Letters of generated names.
const ALPHABET: &str = "bcdfghjklmnpqrstvwxz2456789";

/// What became of a scenario: differences by step, and messages in other words.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) failures: Vec<String>,
    pub(crate) messages: Vec<String>,
}

/// Plays a scenario; `number` makes its namespaces differ from those of others.
pub(crate) async fn play(client: &Client, scenario: &Scenario, number: usize) -> Report {
    let mut report = Report::default();
    let mut run = Run::new(client, scenario, number);
    if let Err(error) = run.make_namespaces(scenario.namespaces).await {
        report.failures.push(error);
        return report;
    }
    let mut book = Book::default();
    for (at, step) in scenario.steps.iter().enumerate() {
        let title = step["request"].as_str().or(step["events"].as_str()).unwrap_or_default();
        let seconds = step["eventually"].as_f64().unwrap_or_default();
        let deadline = tokio::time::Instant::now() + Duration::from_secs_f64(seconds);
        let found = loop {
            let mut trial = book.clone();
            let found = match run.step(step).await {
                Ok(seen) => compare(step, seen, &run.variables, &mut trial),
                Err(error) => vec![Difference::new("step", "to run", error)],
            };
            if found.iter().all(|difference| difference.soft) || tokio::time::Instant::now() >= deadline {
                book = trial;
                break found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        for Difference {
            place,
            expected,
            got,
            soft,
        } in found
        {
            let line = format!("step {}, {title}: {place}: expected {expected}, got {got}", at + 1);
            match (soft, scenario.message.as_str()) {
                (true, "loose") => {}
                (true, message) if message != "strict" => report.messages.push(line),
                _ => report.failures.push(line),
            }
        }
    }
    run.clean_up().await;
    report
}

/// What was observed in one step, ready to be compared.
#[derive(Debug, Default)]
struct Seen {
    raw: Value,
    broken: Vec<Difference>,
    status: Option<u16>,
    headers: Option<Map<String, Value>>,
    layout: Option<String>,
    end: Option<String>,
    body: Option<Value>,
    events: Option<Value>,
}

fn compare(step: &Value, seen: Seen, variables: &BTreeMap<String, String>, book: &mut Book) -> Vec<Difference> {
    let expect = match fill(&step["expect"], variables) {
        Ok(expect) => expect,
        Err(error) => return vec![Difference::new("step", "to run", error)],
    };
    let mut out = seen.broken;
    if let Some(status) = expect["status"].as_u64()
        && seen.status.map(u64::from) != Some(status)
    {
        out.push(Difference::new(
            "status",
            status.to_string(),
            format!("{:?}", seen.status),
        ));
    }
    if let Some(expected) = expect["headers"].as_object() {
        let got = seen.headers.unwrap_or_default();
        for name in expected
            .keys()
            .chain(got.keys().filter(|name| !expected.contains_key(*name)))
        {
            let (want, have) = (&expect["headers"][name], got.get(name).unwrap_or(&Value::Null));
            if !same_header(name, want, have, book) {
                out.push(Difference::new(
                    format!("header {name}"),
                    want.to_string(),
                    have.to_string(),
                ));
            }
        }
    }
    for (part, got) in [("layout", &seen.layout), ("end", &seen.end)] {
        let want = expect[part].as_str();
        if want != got.as_deref() {
            out.push(Difference::new(part, format!("{want:?}"), format!("{got:?}")));
        }
    }
    for (part, got) in [("body", &seen.body), ("events", &seen.events)] {
        if expect.get(part).is_some() || got.as_ref().is_some_and(|got| !got.is_null()) {
            let null = Value::Null;
            let (want, got) = (expect.get(part).unwrap_or(&null), got.as_ref().unwrap_or(&null));
            out.extend(diff(Some(want), Some(got), book, part));
        }
    }
    out
}

/// The state of one scenario: variables, open watches, what was created.
struct Run<'a> {
    client: &'a Client,
    view: View,
    variables: BTreeMap<String, String>,
    watches: BTreeMap<String, Watch>,
    created: Vec<String>,
}

impl<'a> Run<'a> {
    fn new(client: &'a Client, scenario: &Scenario, number: usize) -> Self {
        // Letters only, so that nobody takes the name for a version.
        let tail: String = format!("{number:04}")
            .bytes()
            .map(|digit| char::from(digit - b'0' + b'k'))
            .collect();
        let name = |letter: char| format!("golden-{tail}-{letter}");
        let names = [("ns", 'a'), ("ns2", 'b'), ("ns3", 'c')];
        Self {
            client,
            view: View::new(scenario),
            variables: names
                .into_iter()
                .map(|(key, letter)| (key.to_owned(), name(letter)))
                .collect(),
            watches: BTreeMap::new(),
            created: Vec::new(),
        }
    }

    async fn make_namespaces(&mut self, count: usize) -> Result<(), String> {
        for key in ["ns", "ns2", "ns3"].into_iter().take(count) {
            let name = &self.variables[key];
            let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            let answer = self.send_json("POST", "/api/v1/namespaces", &body).await?;
            if answer.status != 201 {
                return Err(format!(
                    "cannot create namespace {name}: {} {:?}",
                    answer.status, answer.body
                ));
            }
            self.created.push(format!("/api/v1/namespaces/{name}"));
        }
        Ok(())
    }

    async fn send_json(&self, method: &str, path: &str, body: &Value) -> Result<Answer, String> {
        let patch = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let headers = [("content-type".to_owned(), patch.to_owned())];
        self.client
            .send(method, path, &headers, Some(body.to_string().into()))
            .await
    }

    /// Removes what the scenario created, finalizers included. Failures do not matter.
    async fn clean_up(&mut self) {
        self.watches.clear();
        let options = json!({ "gracePeriodSeconds": 0, "propagationPolicy": "Background" });
        for path in std::mem::take(&mut self.created).into_iter().rev() {
            let Ok(answer) = self.send_json("DELETE", &path, &options).await else {
                return;
            };
            let mut left = answer.json();
            if look(&left, "metadata.finalizers").is_some() {
                let patch = json!({ "metadata": { "finalizers": null } });
                let _ = self.send_json("PATCH", &path, &patch).await;
            }
            if look(&left, "spec.finalizers").is_some() && path.starts_with("/api/v1/namespaces/") {
                left["spec"]["finalizers"] = json!([]);
                let _ = self.send_json("PUT", &format!("{path}/finalize"), &left).await;
            }
        }
    }

    async fn step(&mut self, step: &Value) -> Result<Seen, String> {
        let mut step = step.clone();
        if let Some(fields) = step.as_object_mut() {
            fields.remove("expect");
        }
        let step: Step =
            serde_json::from_value(fill(&step, &self.variables)?).map_err(|error| format!("the step: {error}"))?;
        if step.sleep > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(step.sleep)).await;
        }
        let mut seen = match &step.events {
            Some(watch) => self.events(watch, &step).await?,
            None => self.request(&step).await?,
        };
        for relation in &step.relations {
            seen.broken.extend(broken_relation(relation, &seen.raw)?);
        }
        for (name, path) in &step.capture {
            if let Some(value) = look(&seen.raw, path) {
                self.variables.insert(name.clone(), text(value));
            }
        }
        Ok(seen)
    }

    async fn request(&mut self, step: &Step) -> Result<Seen, String> {
        let request = step.request.as_deref().unwrap_or_default();
        let (method, target) = request
            .split_once(' ')
            .ok_or_else(|| format!("no request: {request}"))?;
        let body = body_of(step)?;
        let given = step.headers.clone().into_iter();
        let mut headers: Vec<_> = given.filter_map(|(name, value)| Some((name, value?))).collect();
        let typed = step
            .headers
            .keys()
            .any(|name| name.eq_ignore_ascii_case("content-type"));
        if body.is_some() && !typed {
            headers.push(("content-type".into(), "application/json".into()));
        }
        let mut answer = match &step.watch {
            Some(_) => self.client.watch(method, target, &headers).await?,
            None => self.client.send(method, target, &headers, body).await?,
        };
        let watch = answer.watch.take();
        let is_stream = watch.is_some();
        if let (Some(name), Some(watch)) = (&step.watch, watch) {
            self.watches.insert(name.clone(), watch);
        }
        let data = parse_body(&answer);
        let broken = self.remember(method, target, step.body.as_ref(), answer.status, &data);
        let mut seen = self.observed(step, &answer, data, is_stream);
        seen.broken = broken;
        Ok(seen)
    }

    fn observed(&self, step: &Step, answer: &Answer, data: Value, is_stream: bool) -> Seen {
        let only = |part: &str| step.only.as_ref().is_none_or(|only| only.iter().any(|own| own == part));
        let header = |name: &str| {
            let values: Vec<_> = answer
                .headers
                .get_all(name)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .collect();
            match values.first() {
                None => Value::Null,
                Some(_) if name == "Warning" => json!(values),
                Some(first) => json!(first),
            }
        };
        let mut seen = Seen::default();
        if only("status") {
            seen.status = Some(answer.status);
        }
        if only("headers") {
            let asked = step.compare_headers.iter().map(String::as_str);
            let names = HEADERS.into_iter().filter(|name| !header(name).is_null()).chain(asked);
            seen.headers = Some(names.map(|name| (name.to_owned(), header(name))).collect());
        }
        if step.compare_layout {
            let text = String::from_utf8_lossy(&answer.body);
            let lines = if text.contains("\n  ") { "indented" } else { "one line" };
            let end = if text.ends_with('\n') {
                ", newline at the end"
            } else {
                ""
            };
            seen.layout = Some(format!("{lines}{end}"));
        }
        let headers = answer
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), json!(value.to_str().ok())));
        let raw = json!({ "body": data, "header": headers.collect::<Map<_, _>>(), "status": answer.status });
        if let Some(pick) = &step.pick {
            // Places in a pick are places in the body.
            let picked = |path: &Value| {
                look(&data, path.as_str().unwrap_or_default())
                    .cloned()
                    .unwrap_or_default()
            };
            let mut picked = Value::Object(pick.iter().map(|(label, path)| (label.clone(), picked(path))).collect());
            sort_verbs(&mut picked);
            seen.body = Some(picked);
        } else if only("body") && !is_stream {
            seen.body = Some(self.view.of(&data));
        }
        seen.raw = raw;
        seen
    }

    async fn events(&mut self, name: &str, step: &Step) -> Result<Seen, String> {
        let watch = self
            .watches
            .get_mut(name)
            .ok_or_else(|| format!("watch {name} never started"))?;
        let how = Collect {
            count: step.count,
            within: Duration::from_secs_f64(step.within.unwrap_or(8.0)),
            settle: step.settle.map(Duration::from_secs_f64),
            until_end: step.until_end,
            bookmarks: step.bookmarks != false && !step.bookmarks.is_null(),
        };
        let mut events = watch.collect(how).await;
        if step.bookmarks == "some" {
            // How many come in a row is the server's business.
            events.dedup_by(|later, event| {
                let both = event["type"] == "BOOKMARK" && later["type"] == "BOOKMARK";
                if both {
                    std::mem::swap(later, event);
                }
                both
            });
        }
        let mut seen = Seen {
            raw: json!({ "events": events }),
            events: Some(events.iter().map(|event| self.view.of(event)).collect()),
            ..Seen::default()
        };
        if step.until_end {
            let took = watch.started.elapsed().as_secs_f64();
            let (low, high) = step.between.unwrap_or((0.0, 3600.0));
            if !(low..=high).contains(&took) {
                let problem = Difference::new("duration", format!("{low} to {high} s"), format!("{took:.1} s"));
                seen.broken.push(problem);
            }
            seen.end = Some(watch.ended.clone().unwrap_or_else(|| "still open".into()));
        }
        Ok(seen)
    }

    /// Notes what has to be removed at the end, and checks names that the server made up.
    fn remember(
        &mut self,
        method: &str,
        target: &str,
        sent: Option<&Value>,
        status: u16,
        data: &Value,
    ) -> Vec<Difference> {
        let name = look(data, "metadata.name").map(text);
        let kind = data["kind"].as_str().unwrap_or_default();
        if let (201, Some(name), false) = (
            status,
            &name,
            target.contains("dryRun") || ["Status", "Scale"].contains(&kind),
        ) {
            let path = target.split('?').next().unwrap_or_default().trim_end_matches('/');
            match method {
                "POST" if !self.is_inside_of_created(path) => self.created.push(format!("{path}/{name}")),
                "POST" => {}
                _ => self.created.push(path.trim_end_matches("/status").to_owned()),
            }
        }
        let prefix = sent.and_then(|sent| look(sent, "metadata.generateName")).map(text);
        let given = sent.is_some_and(|sent| look(sent, "metadata.name").is_some_and(|name| name != ""));
        let (Some(prefix), "POST", false) = (prefix, method, given) else {
            return Vec::new();
        };
        let made = name.or_else(|| look(data, "details.name").map(text));
        let start: String = prefix.chars().take(58).collect();
        let want = format!("{start} and 5 characters of {ALPHABET}");
        match made {
            None if status == 201 => vec![Difference::new("body.metadata.name", want, "nothing")],
            Some(made) => {
                let good = made
                    .strip_prefix(&start)
                    .is_some_and(|tail| tail.len() == 5 && tail.chars().all(|c| ALPHABET.contains(c)));
                if good {
                    Vec::new()
                } else {
                    vec![Difference::new("body.metadata.name", want, made)]
                }
            }
            None => Vec::new(),
        }
    }

    /// Whether a path lies inside of something that was created and takes its content along when it goes.
    fn is_inside_of_created(&self, path: &str) -> bool {
        self.created.iter().any(|created| {
            let goes_with_it = !created.starts_with("/api/v1/namespaces/") || created.matches('/').count() > 4;
            goes_with_it && (path == created || path.starts_with(&format!("{created}/")))
        })
    }
}

fn body_of(step: &Step) -> Result<Option<Bytes>, String> {
    Ok(if let Some(body) = &step.body {
        Some(body.to_string().into())
    } else if let Some(text) = &step.text {
        Some(text.clone().into())
    } else if let Some(base64) = &step.base64 {
        Some(
            BASE64_STANDARD
                .decode(base64)
                .map_err(|error| error.to_string())?
                .into(),
        )
    } else {
        step.repeat
            .as_ref()
            .map(|(start, unit, times, end)| format!("{start}{}{end}", unit.repeat(*times)).into())
    })
}

/// `body.metadata.uid == ...`; a place that is not there reads as `None`.
fn broken_relation(relation: &str, raw: &Value) -> Result<Option<Difference>, String> {
    let words: Vec<_> = relation.splitn(3, ' ').collect();
    let [place, operator, want] = words.as_slice() else {
        return Err(format!("no relation: {relation}"));
    };
    let value = look(raw, place).map_or_else(|| "None".to_owned(), text);
    let order = match (value.parse::<u64>(), want.parse::<u64>()) {
        (Ok(value), Ok(want)) => value.cmp(&want),
        _ => value.as_str().cmp(want),
    };
    let holds = match *operator {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        ">=" => order.is_ge(),
        ">" => order.is_gt(),
        "<" => order.is_lt(),
        _ => return Err(format!("no relation: {relation}")),
    };
    Ok((!holds).then(|| Difference::new(*place, format!("{operator} {want}"), value)))
}

/// The body as data: JSON and YAML decoded, of protobuf only the envelope, anything else as text.
fn parse_body(answer: &Answer) -> Value {
    let kind = answer
        .header("content-type")
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if answer.body.is_empty() {
        return Value::Null;
    }
    if kind.contains("protobuf") {
        return match Envelope::parse(&answer.body) {
            Ok(Envelope {
                api_version, kind, raw, ..
            }) => {
                json!({ "protobuf": { "apiVersion": api_version, "kind": kind, "raw": !raw.is_empty() } })
            }
            Err(error) => json!(format!("no protobuf envelope: {error}")),
        };
    }
    let text = String::from_utf8_lossy(&answer.body);
    let parsed = if kind.ends_with("yaml") {
        serde_saphyr::from_str(&text).ok()
    } else {
        serde_json::from_str(&text).ok()
    };
    parsed.unwrap_or_else(|| json!(text))
}
