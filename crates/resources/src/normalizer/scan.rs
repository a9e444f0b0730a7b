//! Verifies that stored JSON is canonical and complete, without decoding it.
//!
//! What this server and Go's wrote is nearly always: every field in its place, nothing that would be omitted, every
//! default set. Then what is served is the stored text with the resource version put in. The scan says so or says
//! nothing; in doubt the value is decoded and written anew. So the scan must never take what is not canonical, but may
//! leave what is.

use std::ops::Range;
use std::sync::Arc;

use apiserver_storage_api::{Attributes, SelectableField};

use super::canonical::{is_always_written, is_canonical_base64, keys, may_be_empty};
use super::cursor::{Cursor, Text};
use crate::defaults::satisfied::RawFields;
use crate::defaults::{Completeness, completeness};
use crate::types::{Form, Gvk, Shape, Type, TypeId, TypeRegistry};
use crate::wire::{MAX_DEPTH, quantity, time};

/// A canonical stored value.
#[derive(Debug)]
pub(super) struct Scanned {
    /// Where the resource version goes.
    pub(super) insert_at: usize,
    /// Whether it stands alone, after something, or before something.
    pub(super) comma: Comma,
    /// The end of the object.
    pub(super) end: usize,
    /// Whether the newline of stored values follows.
    pub(super) has_newline: bool,
    /// A resource version that is there already, with its comma. Stored values have none.
    pub(super) revision: Option<Range<usize>>,
    /// Whether there is a self link. Stored values have none.
    pub(super) has_self_link: bool,
    pub(super) attributes: Attributes,
}

/// Where the resource version needs a comma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comma {
    None,
    Before,
    After,
}

/// Scans a stored value; `None` when it has to be decoded.
pub(super) fn scan(ty: &'static Type, gvk: Gvk<'_>, stored: &[u8], fields: &[SelectableField]) -> Option<Scanned> {
    let text = std::str::from_utf8(stored).ok()?;
    if fields.len() > 64 {
        return None;
    }
    let mut scan = Scan {
        cursor: Cursor::new(text),
        registry: TypeRegistry::builtin(),
        fields,
        found: vec![None; fields.len()],
        ranges: Vec::with_capacity(32),
        root: ty.name,
        metadata: Metadata::default(),
    };
    scan.root(ty, gvk)?;
    let end = scan.cursor.at();
    let has_newline = scan.cursor.accept(b"\n");
    if scan.cursor.peek().is_some() {
        return None;
    }
    let (insert_at, comma) = scan.metadata.insert?;
    Some(Scanned {
        insert_at,
        comma,
        end,
        has_newline,
        revision: scan.metadata.revision.take(),
        has_self_link: scan.metadata.has_self_link,
        attributes: scan.attributes()?,
    })
}

/// What was seen of the object's metadata.
#[derive(Default)]
struct Metadata {
    insert: Option<(usize, Comma)>,
    revision: Option<Range<usize>>,
    has_self_link: bool,
    name: Option<Text>,
    namespace: Option<Text>,
    uid: Option<Text>,
    labels: Vec<(Text, Text)>,
    deleting: bool,
}

/// Which fields of a document are wanted: a bit for each selectable field whose path led here.
#[derive(Clone, Copy)]
struct Wanted {
    bits: u64,
    steps: usize,
}

const POD: &str = "core.v1.Pod";
const JOB: &str = "batch.v1.Job";
/// What the rule of jobs sets; completions only together with parallelism.
const JOB_DEFAULTS: [&str; 6] = [
    "parallelism",
    "backoffLimit",
    "completionMode",
    "suspend",
    "manualSelector",
    "podReplacementPolicy",
];

const NOTHING: Wanted = Wanted { bits: 0, steps: 0 };

struct Scan<'a> {
    cursor: Cursor<'a>,
    registry: &'static TypeRegistry,
    fields: &'a [SelectableField],
    found: Vec<Option<Range<usize>>>,
    /// The fields of the values that are being scanned and have a check, innermost last.
    ranges: Vec<(u16, Range<usize>)>,
    /// The type of the whole value: in pods and jobs more is set than in templates of them.
    root: &'static str,
    metadata: Metadata,
}

/// The part of an object that a scan of one type needs.
struct Frame<'p> {
    ty: &'static Type,
    plan: &'p Completeness,
    /// Where the ranges of this value begin.
    base: usize,
    /// How many fields with a default were seen.
    defaulted: usize,
    /// The place of the next field.
    next: usize,
    /// A bit for each field that was seen; no type has more fields.
    seen: u128,
    wanted: Wanted,
    depth: usize,
}

impl Scan<'_> {
    fn root(&mut self, ty: &'static Type, gvk: Gvk<'_>) -> Option<()> {
        self.cursor.expect(b"{\"kind\":\"")?;
        self.cursor.expect(gvk.kind.as_bytes())?;
        self.cursor.expect(b"\",\"apiVersion\":\"")?;
        if !gvk.group.is_empty() {
            self.cursor.expect(gvk.group.as_bytes())?;
            self.cursor.expect(b"/")?;
        }
        self.cursor.expect(gvk.version.as_bytes())?;
        self.cursor.expect(b"\",")?;
        let has_head = ty.has_type_meta && ty.fields.get(2).is_some_and(|field| field.name == "metadata");
        if !has_head {
            return None;
        }
        let bits = if self.fields.is_empty() {
            0
        } else {
            u64::MAX >> (64 - self.fields.len())
        };
        let mut frame = self.frame(ty, Wanted { bits, steps: 0 }, MAX_DEPTH)?;
        frame.next = 2;
        let start = self.cursor.at();
        if !self.cursor.accept_key("metadata") {
            return None;
        }
        let value_at = start + "\"metadata\":".len();
        let wanted = self.step(frame.wanted, "metadata");
        self.metadata(ty.fields[2].shape.type_id()?, wanted)?;
        self.ranges.push((2, value_at..self.cursor.at()));
        frame.next = 3;
        self.members(frame, false)
    }

    fn frame(&self, ty: &'static Type, wanted: Wanted, depth: usize) -> Option<Frame<'static>> {
        let plan = completeness(ty.id)?;
        Some(Frame {
            ty,
            plan,
            base: self.ranges.len(),
            defaulted: 0,
            next: 0,
            seen: 0,
            wanted,
            depth: depth.checked_sub(1)?,
        })
    }

    /// Scans an object of a type.
    fn object(&mut self, ty: &'static Type, wanted: Wanted, depth: usize) -> Option<()> {
        let frame = self.frame(ty, wanted, depth)?;
        self.cursor.expect(b"{")?;
        self.members(frame, true)
    }

    /// Scans the rest of an object, to its closing brace.
    fn members(&mut self, mut frame: Frame<'_>, mut first: bool) -> Option<()> {
        while !self.cursor.accept(b"}") {
            if !std::mem::take(&mut first) {
                self.cursor.expect(b",")?;
            }
            let index = self.key(&mut frame)?;
            let field = &frame.ty.fields[index];
            let start = self.cursor.at();
            let wanted = self.step(frame.wanted, field.name);
            self.field(&frame, index, wanted)?;
            self.after(&mut frame, index, start..self.cursor.at())?;
        }
        self.finish(&frame)
    }

    /// Finds the field whose key stands here; those before it must be ones that Go leaves out.
    fn key(&mut self, frame: &mut Frame<'_>) -> Option<usize> {
        loop {
            let index = frame.next;
            let field = frame.ty.fields.get(index)?;
            frame.next += 1;
            if self.cursor.accept_key(field.name) {
                frame.seen |= 1_u128.checked_shl(u32::try_from(index).ok()?)?;
                return Some(index);
            }
            if is_always_written(field) || frame.plan.defaulted.get(frame.defaulted) == Some(&index) {
                return None;
            }
        }
    }

    /// Notes a field that was scanned.
    fn after(&mut self, frame: &mut Frame<'_>, index: usize, at: Range<usize>) -> Option<()> {
        let field = &frame.ty.fields[index];
        let text = self.cursor.slice(at.clone());
        let is_empty = matches!(text, "\"\"" | "0" | "false" | "[]" | "{}" | "null");
        if is_empty && !may_be_empty(field, text) {
            return None;
        }
        if frame.plan.defaulted.get(frame.defaulted) == Some(&index) {
            frame.defaulted += 1;
            let may_be_zero = field.pointer || matches!(field.shape, Shape::Type(_));
            if text == "null" || is_empty && !may_be_zero {
                return None;
            }
        }
        if frame.plan.check.is_some() {
            self.ranges.push((u16::try_from(index).ok()?, at));
        }
        Some(())
    }

    fn finish(&mut self, frame: &Frame<'_>) -> Option<()> {
        let rest = frame.ty.fields.get(frame.next..).unwrap_or_default();
        if rest.iter().any(is_always_written) || frame.defaulted < frame.plan.defaulted.len() {
            return None;
        }
        let has = |name: &str| {
            frame
                .ty
                .field_index(name)
                .is_some_and(|index| frame.seen >> index & 1 == 1)
        };
        let is_decided = match (self.root, frame.ty.name) {
            // Ports under the host's network are left to the rule.
            (POD, "core.v1.PodSpec") => has("enableServiceLinks") && !has("hostNetwork"),
            // Jobs get the labels of their template.
            (JOB, "batch.v1.JobSpec") => JOB_DEFAULTS.iter().all(|name| has(name)) && !self.metadata.labels.is_empty(),
            _ => true,
        };
        if !is_decided {
            return None;
        }
        if let Some(check) = frame.plan.check {
            let raw = Ranges {
                ty: frame.ty,
                cursor: self.cursor,
                ranges: &self.ranges[frame.base..],
            };
            if !check(&raw) {
                return None;
            }
        }
        self.ranges.truncate(frame.base);
        Some(())
    }

    fn step(&self, wanted: Wanted, name: &str) -> Wanted {
        if wanted.bits == 0 {
            return NOTHING;
        }
        let leads_on = |index: &usize| {
            wanted.bits & 1 << index != 0
                && self.fields[*index]
                    .path
                    .get(wanted.steps)
                    .is_some_and(|step| step == name)
        };
        let bits = (0..self.fields.len())
            .filter(leads_on)
            .fold(0, |bits, index| bits | 1 << index);
        Wanted {
            bits,
            steps: wanted.steps + 1,
        }
    }

    fn field(&mut self, frame: &Frame<'_>, index: usize, wanted: Wanted) -> Option<()> {
        let field = &frame.ty.fields[index];
        let start = self.cursor.at();
        if self.cursor.accept(b"null") {
            // Whether null may stand here is decided with the other empty values.
        } else if frame.plan.resource_lists.contains(&index) {
            self.resource_list()?;
        } else {
            self.value(&field.shape, wanted, frame.depth)?;
        }
        for index in 0..self.fields.len() {
            if wanted.bits & 1 << index != 0 && self.fields[index].path.len() == wanted.steps {
                self.found[index] = Some(start..self.cursor.at());
            }
        }
        Some(())
    }

    fn value(&mut self, shape: &'static Shape, wanted: Wanted, depth: usize) -> Option<()> {
        match shape {
            Shape::String => self.cursor.string().map(|_| ()),
            Shape::Bool => self.cursor.boolean().map(|_| ()),
            Shape::Int32 => self
                .cursor
                .integer()
                .and_then(|number| i32::try_from(number).ok())
                .map(|_| ()),
            Shape::Int64 => self.cursor.integer().map(|_| ()),
            // Rare, and their text has many forms.
            Shape::Double => None,
            Shape::Bytes => {
                let text = self.cursor.string()?;
                is_canonical_base64(self.cursor.slice(text.at).as_bytes()).then_some(())
            }
            Shape::Type(id) => self.typed(*id, wanted, depth),
            Shape::List { item, .. } => self.list(item, depth.checked_sub(1)?),
            Shape::Map(item) => self.map(item, wanted, depth.checked_sub(1)?),
        }
    }

    fn typed(&mut self, id: TypeId, wanted: Wanted, depth: usize) -> Option<()> {
        let ty = &self.registry[id];
        match ty.form {
            Form::Struct => {
                if self.root == POD && ty.name == "core.v1.ResourceRequirements" {
                    return self.resources(ty, depth);
                }
                self.object(ty, wanted, depth)
            }
            Form::Time => self.time(time::Precision::Seconds),
            Form::MicroTime => self.time(time::Precision::Micros),
            Form::Quantity => {
                let text = self.cursor.string()?;
                let text = self.cursor.decoded(&text)?;
                matches!(quantity::stored_text(&text), Ok(None)).then_some(())
            }
            Form::IntOrString => match self.cursor.peek()? {
                b'"' => self.cursor.string().map(|_| ()),
                _ => self.value(&Shape::Int32, NOTHING, depth),
            },
            Form::Raw | Form::FieldsV1 => self.cursor.any(depth),
            Form::SchemaOrArray | Form::SchemaOrBool | Form::SchemaOrStrings => None,
        }
    }

    fn time(&mut self, precision: time::Precision) -> Option<()> {
        let text = self.cursor.string()?;
        time::is_canonical(self.cursor.slice(text.at), precision).then_some(())
    }

    fn list(&mut self, item: &'static Shape, depth: usize) -> Option<()> {
        self.cursor.expect(b"[")?;
        if self.cursor.accept(b"]") {
            return Some(());
        }
        loop {
            self.value(item, NOTHING, depth)?;
            if !self.cursor.accept(b",") {
                return self.cursor.expect(b"]");
            }
        }
    }

    fn map(&mut self, item: &'static Shape, wanted: Wanted, depth: usize) -> Option<()> {
        if wanted.bits != 0 && wanted.steps < self.longest_path(wanted) {
            return None;
        }
        self.entries(|scan, _| scan.value(item, NOTHING, depth))
    }

    fn longest_path(&self, wanted: Wanted) -> usize {
        (0..self.fields.len())
            .filter(|index| wanted.bits & 1 << index != 0)
            .map(|index| self.fields[index].path.len())
            .max()
            .unwrap_or_default()
    }

    /// Scans a map: keys without escapes in ascending order.
    fn entries(&mut self, mut value: impl FnMut(&mut Self, Text) -> Option<()>) -> Option<()> {
        self.cursor.expect(b"{")?;
        if self.cursor.accept(b"}") {
            return Some(());
        }
        let mut last: Option<Range<usize>> = None;
        loop {
            let key = self.cursor.string()?;
            let ascends = last.is_none_or(|last| self.cursor.slice(last) < self.cursor.slice(key.at.clone()));
            if key.escaped || !ascends {
                return None;
            }
            last = Some(key.at.clone());
            self.cursor.expect(b":")?;
            value(self, key)?;
            if !self.cursor.accept(b",") {
                return self.cursor.expect(b"}");
            }
        }
    }

    /// A resource list is canonical when rounding changes nothing.
    fn resource_list(&mut self) -> Option<()> {
        self.entries(|scan, _| {
            let text = scan.cursor.string()?;
            let text = scan.cursor.decoded(&text)?;
            matches!(quantity::rounded_to_milli(&text), Ok(None)).then_some(())
        })
    }

    /// In pods, what is limited is requested.
    fn resources(&mut self, ty: &'static Type, depth: usize) -> Option<()> {
        let start = self.cursor.at();
        self.object(ty, NOTHING, depth)?;
        let text = self.cursor.slice(start..self.cursor.at());
        let Some(limits) = text.strip_prefix("{\"limits\":") else {
            return Some(());
        };
        let limits = keys(limits)?;
        let requests = match text.find(",\"requests\":") {
            Some(at) => keys(&text[at + ",\"requests\":".len()..])?,
            None => Vec::new(),
        };
        limits.iter().all(|key| requests.contains(key)).then_some(())
    }

    /// Scans the object's metadata and notes what selectors need.
    fn metadata(&mut self, id: TypeId, wanted: Wanted) -> Option<()> {
        let ty = &self.registry[id];
        let mut frame = self.frame(ty, wanted, MAX_DEPTH)?;
        let revision_at = ty.field_index("resourceVersion")?;
        self.cursor.expect(b"{")?;
        let mut first = true;
        while self.cursor.peek()? != b'}' {
            if !first {
                self.cursor.expect(b",")?;
            }
            let key_at = self.cursor.at();
            let index = self.key(&mut frame)?;
            let field = &ty.fields[index];
            if index > revision_at && self.metadata.insert.is_none() {
                self.metadata.insert = Some((key_at, Comma::After));
            }
            let start = self.cursor.at();
            let wanted = self.step(wanted, field.name);
            if field.name == "labels" && wanted.bits == 0 {
                self.labels()?;
            } else {
                self.field(&frame, index, wanted)?;
            }
            let at = start..self.cursor.at();
            if index == revision_at {
                let is_followed = first && self.cursor.peek() == Some(b',');
                self.metadata.revision = Some(key_at - usize::from(!first)..at.end + usize::from(is_followed));
            }
            first = false;
            self.note(field.name, at.clone());
            self.after(&mut frame, index, at)?;
        }
        let end = self.cursor.at();
        let comma = if first { Comma::None } else { Comma::Before };
        self.metadata.insert.get_or_insert((end, comma));
        self.cursor.expect(b"}")?;
        self.finish(&frame)
    }

    fn labels(&mut self) -> Option<()> {
        let mut labels = Vec::new();
        self.entries(|scan, key| {
            labels.push((key, scan.cursor.string()?));
            Some(())
        })?;
        self.metadata.labels = labels;
        Some(())
    }

    fn note(&mut self, name: &str, at: Range<usize>) {
        let escaped = self.cursor.slice(at.clone()).contains('\\');
        let text = || {
            Some(Text {
                at: at.start + 1..at.end - 1,
                escaped,
            })
        };
        match name {
            "name" => self.metadata.name = text(),
            "namespace" => self.metadata.namespace = text(),
            "uid" => self.metadata.uid = text(),
            "selfLink" => self.metadata.has_self_link = true,
            "deletionTimestamp" => self.metadata.deleting = true,
            _ => {}
        }
    }

    fn attributes(&self) -> Option<Attributes> {
        let text = |text: &Option<Text>| match text {
            Some(text) => self.cursor.decoded(text).map(|text| text.as_ref().into()),
            None => Some("".into()),
        };
        let labels = self
            .metadata
            .labels
            .iter()
            .map(|(key, value)| Some((self.cursor.decoded(key)?, self.cursor.decoded(value)?)))
            .collect::<Option<Vec<_>>>()?;
        let fields = self.fields.iter().zip(&self.found).map(|(field, found)| {
            let text = match found.clone().map(|at| self.cursor.slice(at)) {
                None | Some("null") => field.default.to_string(),
                Some(text) if text.starts_with('"') => serde_json::from_str(text).ok()?,
                Some(text) if text.starts_with(['{', '[']) => return None,
                Some(text) => text.to_owned(),
            };
            Some((Arc::clone(&field.label), text))
        });
        Some(Attributes {
            name: text(&self.metadata.name)?,
            namespace: text(&self.metadata.namespace)?,
            uid: text(&self.metadata.uid)?,
            labels: labels
                .iter()
                .map(|(key, value)| (key.as_ref(), value.as_ref()))
                .collect(),
            fields: fields.collect::<Option<_>>()?,
            deleting: self.metadata.deleting,
        })
    }
}

/// The fields of one value for a check.
struct Ranges<'a> {
    ty: &'static Type,
    cursor: Cursor<'a>,
    ranges: &'a [(u16, Range<usize>)],
}

impl RawFields for Ranges<'_> {
    fn count(&self) -> usize {
        self.ranges.len()
    }

    fn get(&self, name: &str) -> Option<&str> {
        let index = self.ty.field_index(name)?;
        let found = self.ranges.iter().find(|(known, _)| usize::from(*known) == index);
        found.map(|(_, at)| self.cursor.slice(at.clone()))
    }
}
