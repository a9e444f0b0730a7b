//! Verifies that stored JSON is canonical and complete, without decoding it, and notes what is missing.
//!
//! What this server and Go's wrote is nearly always: every field in its place, nothing that would be omitted, every
//! default set. Then what is served is the stored text with the resource version put in. Where only defaults are absent,
//! or empty members are there that Go would leave out, as in what a client library stored, the scan says what to change
//! in the text. In doubt it says nothing; then the value is decoded and written anew. So the scan must never take what
//! is not canonical, but may leave what is.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use apiserver_storage_api::{Attributes, SelectableField, Text as Short};

use super::canonical::{is_canonical_base64, keys};
use super::cursor::{Cursor, Text};
use super::edits::{Edits, Place};
use super::missing::{Absent, Owner};
use super::plan::{Fields, Plan, Role, between, bit, plan_of};
use crate::defaults::satisfied::RawFields;
use crate::types::{Form, Gvk, Shape, Type, TypeId, TypeRegistry};
use crate::wire::{MAX_DEPTH, quantity, time};

/// A stored value that is canonical, but for some changes.
#[derive(Debug)]
pub(super) struct Scanned {
    /// Where the resource version goes.
    pub(super) place: Place,
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
    /// What has to be changed. Empty unless changes were asked for.
    pub(super) edits: Edits,
}

/// Where the resource version needs a comma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comma {
    None,
    Before,
    After,
}

/// What is done about a value that is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incomplete {
    /// It is left to the decoder.
    Left,
    /// The scan says what to change.
    Edited,
}

/// Scans a stored value; `None` when it has to be decoded.
pub(super) fn scan(
    ty: &'static Type,
    gvk: Gvk<'_>,
    stored: &[u8],
    fields: &[SelectableField],
    incomplete: Incomplete,
) -> Option<Scanned> {
    let text = std::str::from_utf8(stored).ok()?;
    if fields.len() > 64 {
        return None;
    }
    let mut scan = Scan {
        cursor: Cursor::new(text),
        registry: TypeRegistry::builtin(),
        fields,
        found: vec![None; fields.len()],
        ranges: Vec::with_capacity(16),
        root: Role::of(ty),
        metadata: Metadata::default(),
        incomplete,
        edits: Edits::default(),
        requests_limits: false,
    };
    scan.root(ty, gvk)?;
    let end = scan.cursor.at();
    let has_newline = scan.cursor.accept(b"\n");
    if scan.cursor.peek().is_some() {
        return None;
    }
    let (place, comma) = scan.metadata.place?;
    Some(Scanned {
        place,
        comma,
        end,
        has_newline,
        revision: scan.metadata.revision.take(),
        has_self_link: scan.metadata.has_self_link,
        attributes: scan.attributes()?,
        edits: scan.edits,
    })
}

/// What was seen of the object's metadata.
#[derive(Default)]
struct Metadata {
    place: Option<(Place, Comma)>,
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

/// A value: a part of the text, or what stands for it there.
#[derive(Clone, Debug)]
enum Raw {
    At(Range<usize>),
    Text(Cow<'static, str>),
    /// With changes in it: nobody may look into it.
    Edited,
}

impl Raw {
    fn text<'t>(&'t self, cursor: &Cursor<'t>) -> &'t str {
        match self {
            Self::At(range) => cursor.slice(range.clone()),
            Self::Text(text) => text,
            Self::Edited => "",
        }
    }
}

struct Scan<'a> {
    cursor: Cursor<'a>,
    registry: &'static TypeRegistry,
    fields: &'a [SelectableField],
    found: Vec<Option<Raw>>,
    /// The fields of the values that are being scanned and have a check, innermost last.
    ranges: Vec<(u16, Raw)>,
    /// What the whole value is: in pods and jobs more is set than in templates of them.
    root: Role,
    metadata: Metadata,
    incomplete: Incomplete,
    edits: Edits,
    /// Whether resources that are limited here are requested.
    requests_limits: bool,
}

/// The part of an object that a scan of one type needs.
struct Frame {
    plan: &'static Plan,
    /// Where the ranges of this value begin.
    base: usize,
    /// The place of the next field.
    next: usize,
    seen: Fields,
    /// Whether something stands before the next member in what is served.
    written: bool,
    wanted: Wanted,
    depth: usize,
    /// Whether it is the metadata of the whole.
    is_metadata: bool,
}

impl Frame {
    fn keeps_ranges(&self) -> bool {
        self.plan.completeness.check.is_some() || self.plan.dependent != 0 || self.plan.role == Role::Resources
    }

    fn has(&self, name: &str) -> bool {
        let index = self.plan.ty.field_index(name);
        index.is_some_and(|index| self.seen & bit(index) != 0)
    }
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
        let start = self.cursor.at();
        if !self.cursor.accept_key("metadata") {
            return None;
        }
        let value_at = start + "\"metadata\":".len();
        let wanted = self.step(frame.wanted, "metadata");
        self.metadata(ty.fields[2].shape.type_id()?, wanted)?;
        let metadata = if self.edits.is_empty() {
            Raw::At(value_at..self.cursor.at())
        } else {
            Raw::Edited
        };
        self.ranges.push((2, metadata));
        (frame.next, frame.written) = (3, true);
        self.members(frame, false)
    }

    fn frame(&self, ty: &'static Type, wanted: Wanted, depth: usize) -> Option<Frame> {
        Some(Frame {
            plan: plan_of(ty.id)?,
            base: self.ranges.len(),
            next: 0,
            seen: 0,
            written: false,
            wanted,
            depth: depth.checked_sub(1)?,
            is_metadata: false,
        })
    }

    /// Scans an object of a type.
    fn object(&mut self, ty: &'static Type, wanted: Wanted, depth: usize) -> Option<()> {
        let frame = self.frame(ty, wanted, depth)?;
        self.cursor.expect(b"{")?;
        self.members(frame, true)
    }

    /// Scans the rest of an object, to its closing brace.
    fn members(&mut self, mut frame: Frame, mut is_first: bool) -> Option<()> {
        loop {
            let gap = self.cursor.at();
            if self.cursor.accept(b"}") {
                self.absent(&mut frame, usize::MAX, gap)?;
                if frame.plan.role == Role::Volume {
                    self.source(&mut frame, gap)?;
                }
                return self.finish(&frame);
            }
            if !is_first {
                self.cursor.expect(b",")?;
            }
            let index = frame.plan.find(&mut self.cursor, frame.next)?;
            self.absent(&mut frame, index, gap)?;
            self.member(&mut frame, index, gap, is_first)?;
            is_first = false;
        }
    }

    /// Scans the value of a field, whose key and colon were stepped over. `gap` is where its member begins, the comma
    /// before it included.
    fn member(&mut self, frame: &mut Frame, index: usize, gap: usize, is_first: bool) -> Option<Range<usize>> {
        let field = &frame.plan.ty.fields[index];
        let (start, edits) = (self.cursor.at(), self.edits.len());
        let wanted = self.step(frame.wanted, field.name);
        self.field(frame, index, wanted)?;
        let at = start..self.cursor.at();
        let mut raw = if self.edits.len() == edits {
            Raw::At(at.clone())
        } else {
            Raw::Edited
        };
        if self.cursor.is_empty_value(start) {
            let text = self.cursor.slice(at.clone());
            if !frame.plan.may_be_empty(index, field, text) {
                if self.incomplete == Incomplete::Left || frame.plan.dependent & bit(index) != 0 {
                    return None;
                }
                self.edits.truncate(edits);
                if frame.plan.needed & bit(index) == 0 {
                    self.forget(wanted);
                    self.edits.push(gap..at.end, Vec::new());
                    return Some(at);
                }
                let text = frame.plan.text(index)?;
                self.fill(wanted, text)?;
                self.edits.push(at.clone(), vec![text.into()]);
                raw = Raw::Text(text.into());
            }
        }
        if is_first == frame.written {
            // Members before it went, or came: so does its comma.
            if is_first {
                self.edits.insert(edits, gap..gap, vec![",".into()]);
            } else {
                self.edits.insert(edits, gap..gap + 1, Vec::new());
            }
        }
        frame.written = true;
        frame.seen |= bit(index);
        if frame.keeps_ranges() {
            self.ranges.push((u16::try_from(index).ok()?, raw));
        }
        Some(at)
    }

    /// Goes on to a field, or behind all; those before it that are not there must be ones that Go leaves out, or get what
    /// they lack.
    #[inline]
    fn absent(&mut self, frame: &mut Frame, until: usize, gap: usize) -> Option<()> {
        let passed = between(frame.next, until);
        frame.next = until.saturating_add(1);
        if passed & (frame.plan.needed | frame.plan.dependent) == 0 {
            return Some(());
        }
        if self.incomplete == Incomplete::Left {
            return (passed & frame.plan.needed == 0).then_some(());
        }
        self.supply(frame, passed, gap)
    }

    #[cold]
    fn supply(&mut self, frame: &mut Frame, passed: Fields, gap: usize) -> Option<()> {
        let plan = frame.plan;
        for (index, field) in plan.ty.fields.iter().enumerate() {
            // What depends on others has the say over what would stand there without them.
            let text: Cow<'static, str> = if passed & plan.dependent & bit(index) != 0 {
                let raw = self.raw(frame);
                match (plan.decide()?)(&raw, field.name, self.owner()) {
                    Absent::Stays if passed & plan.needed & bit(index) != 0 => plan.text(index)?.into(),
                    Absent::Stays => continue,
                    Absent::Gets(text) => text,
                    Absent::Unknown => return None,
                }
            } else if passed & plan.needed & bit(index) != 0 {
                plan.text(index)?.into()
            } else {
                continue;
            };
            let wanted = self.step(frame.wanted, field.name);
            self.fill(wanted, &text)?;
            if frame.keeps_ranges() {
                self.ranges.push((u16::try_from(index).ok()?, Raw::Text(text.clone())));
            }
            let comma = if frame.written { ",\"" } else { "\"" };
            let parts = vec![comma.into(), field.name.into(), "\":".into(), text];
            self.edits.push(gap..gap, parts);
            frame.written = true;
            frame.seen |= bit(index);
        }
        Some(())
    }

    fn owner(&self) -> Owner {
        match self.root {
            Role::Pod if self.requests_limits => Owner::Container,
            Role::Pod => Owner::Pod,
            _ => Owner::Other,
        }
    }

    /// Notes the value of a field that the text lacks, where it is wanted.
    fn fill(&mut self, wanted: Wanted, text: &str) -> Option<()> {
        for (index, field) in self.fields.iter().enumerate() {
            if wanted.bits & 1 << index == 0 {
                continue;
            }
            // What is within is left to the decoder.
            if field.path.len() != wanted.steps {
                return None;
            }
            self.found[index] = Some(Raw::Text(text.to_owned().into()));
        }
        Some(())
    }

    fn forget(&mut self, wanted: Wanted) {
        for (index, found) in self.found.iter_mut().enumerate() {
            if wanted.bits & 1 << index != 0 {
                *found = None;
            }
        }
    }

    fn raw(&self, frame: &Frame) -> Ranges<'_> {
        Ranges {
            ty: frame.plan.ty,
            cursor: self.cursor,
            ranges: self.ranges.get(frame.base..).unwrap_or_default(),
        }
    }

    fn finish(&mut self, frame: &Frame) -> Option<()> {
        let is_decided = match (self.root, frame.plan.role) {
            // Ports under the host's network are left to the rule.
            (Role::Pod, Role::PodSpec) => frame.has("enableServiceLinks") && !frame.has("hostNetwork"),
            // Jobs get the labels of their template.
            (Role::Job, Role::JobSpec) => {
                JOB_DEFAULTS.iter().all(|name| frame.has(name)) && !self.metadata.labels.is_empty()
            }
            (Role::Pod, Role::Resources) if self.requests_limits => self.requests_what_is_limited(frame),
            _ => true,
        };
        if !is_decided {
            return None;
        }
        if let Some(check) = frame.plan.completeness.check
            && !check(&self.raw(frame))
        {
            return None;
        }
        self.ranges.truncate(frame.base);
        Some(())
    }

    #[inline]
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

    fn field(&mut self, frame: &Frame, index: usize, wanted: Wanted) -> Option<()> {
        let field = &frame.plan.ty.fields[index];
        if wanted.bits == 0 && matches!(field.shape, Shape::String) && self.cursor.peek()? == b'"' {
            // Most are.
            return self.cursor.string().map(drop);
        }
        let start = self.cursor.at();
        if self.cursor.peek()? == b'n' {
            // Whether null may stand here is decided with the other empty values.
            self.cursor.expect(b"null")?;
        } else if frame.is_metadata && field.name == "labels" {
            if wanted.bits != 0 {
                return None;
            }
            self.labels()?;
        } else if frame.plan.resource_lists & bit(index) != 0 {
            self.resource_list()?;
        } else if (self.root, frame.plan.role) == (Role::Pod, Role::PodSpec) {
            self.requests_limits = matches!(field.name, "containers" | "initContainers");
            self.value(&field.shape, wanted, frame.depth)?;
            self.requests_limits = false;
        } else {
            self.value(&field.shape, wanted, frame.depth)?;
        }
        if wanted.bits == 0 {
            return Some(());
        }
        for index in 0..self.fields.len() {
            if wanted.bits & 1 << index != 0 && self.fields[index].path.len() == wanted.steps {
                self.found[index] = Some(Raw::At(start..self.cursor.at()));
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
            Form::Struct => self.object(ty, wanted, depth),
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
            if is_plainly_rounded(scan.cursor.slice(text.at.clone()).as_bytes()) {
                return Some(());
            }
            let text = scan.cursor.decoded(&text)?;
            matches!(quantity::rounded_to_milli(&text), Ok(None)).then_some(())
        })
    }

    /// A volume without a source is an empty directory.
    fn source(&mut self, frame: &mut Frame, gap: usize) -> Option<()> {
        let name = frame.plan.ty.field_index("name").map_or(0, bit);
        if frame.seen & !name != 0 || self.incomplete == Incomplete::Left || !frame.written {
            return Some(());
        }
        let index = frame.plan.ty.field_index("emptyDir")?;
        self.ranges.push((u16::try_from(index).ok()?, Raw::Text("{}".into())));
        self.edits.push(gap..gap, vec![",\"emptyDir\":{}".into()]);
        Some(())
    }

    /// Whether what is limited is requested, too.
    fn requests_what_is_limited(&self, frame: &Frame) -> bool {
        let raw = self.raw(frame);
        let Some(limits) = raw.get("limits") else { return true };
        let Some(limits) = keys(limits) else { return false };
        let requests = raw.get("requests").and_then(keys).unwrap_or_default();
        limits.iter().all(|key| requests.contains(key))
    }

    /// Scans the object's metadata and notes what selectors need.
    fn metadata(&mut self, id: TypeId, wanted: Wanted) -> Option<()> {
        let ty = &self.registry[id];
        let mut frame = self.frame(ty, wanted, MAX_DEPTH)?;
        frame.is_metadata = true;
        let revision_at = ty.field_index("resourceVersion")?;
        self.cursor.expect(b"{")?;
        let mut is_first = true;
        loop {
            let gap = self.cursor.at();
            if self.cursor.accept(b"}") {
                self.absent(&mut frame, usize::MAX, gap)?;
                let comma = if frame.written { Comma::Before } else { Comma::None };
                let place = self.place(gap);
                self.metadata.place.get_or_insert((place, comma));
                return self.finish(&frame);
            }
            if !is_first {
                self.cursor.expect(b",")?;
            }
            let index = frame.plan.find(&mut self.cursor, frame.next)?;
            self.absent(&mut frame, index, gap)?;
            let mut leads = false;
            if index > revision_at && self.metadata.place.is_none() {
                leads = !frame.written;
                if leads && !is_first {
                    return None;
                }
                let comma = if leads { Comma::After } else { Comma::Before };
                self.metadata.place = Some((self.place(gap), comma));
            }
            let at = self.member(&mut frame, index, gap, is_first)?;
            if frame.seen & bit(index) != 0 {
                self.note(ty.fields[index].name, at.clone());
            } else if leads {
                // The comma behind the resource version would stand alone.
                return None;
            }
            if index == revision_at {
                let is_followed = is_first && self.cursor.peek() == Some(b',');
                self.metadata.revision = Some(gap..at.end + usize::from(is_followed));
            }
            is_first = false;
        }
    }

    fn place(&self, at: usize) -> Place {
        Place {
            at,
            edits_before: self.edits.len(),
        }
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
        let mut labels = Vec::with_capacity(self.metadata.labels.len());
        for (key, value) in &self.metadata.labels {
            labels.push((self.cursor.decoded(key)?, self.cursor.decoded(value)?));
        }
        let mut fields = Vec::with_capacity(self.fields.len());
        for (field, found) in self.fields.iter().zip(&self.found) {
            let found = found.as_ref().map(|found| found.text(&self.cursor));
            let value: Short = match found {
                None | Some("null") => (*field.default).into(),
                Some(text) if text.starts_with('"') => unquoted(text)?,
                // Also what has changes in it.
                Some(text) if text.is_empty() || text.starts_with(['{', '[']) => return None,
                Some(text) => text.into(),
            };
            fields.push((Arc::clone(&field.label), value));
        }
        Some(Attributes {
            name: text(&self.metadata.name)?,
            namespace: text(&self.metadata.namespace)?,
            uid: text(&self.metadata.uid)?,
            labels: labels
                .iter()
                .map(|(key, value)| (key.as_ref(), value.as_ref()))
                .collect(),
            fields: fields.into_iter().collect(),
            deleting: self.metadata.deleting,
        })
    }
}

/// The text of a quoted string.
fn unquoted(quoted: &str) -> Option<Short> {
    if quoted.contains('\\') {
        return serde_json::from_str::<String>(quoted).ok().map(Short::from);
    }
    Some(quoted.strip_prefix('"')?.strip_suffix('"')?.into())
}

/// Whether rounding a quantity up to thousandths surely leaves its text: a small whole number in the largest unit that
/// it is a whole number of.
fn is_plainly_rounded(text: &[u8]) -> bool {
    const DIGITS: usize = 6;
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, unit) = text.split_at(digits);
    let step = match unit {
        b"m" | b"" | b"k" | b"M" | b"G" => 1000,
        b"Ki" | b"Mi" | b"Gi" => 1024,
        _ => return false,
    };
    let value = number.iter().fold(0_u32, |value, digit| {
        value.wrapping_mul(10).wrapping_add(u32::from(digit.wrapping_sub(b'0')))
    });
    (1..=DIGITS).contains(&digits) && number.first() != Some(&b'0') && !value.is_multiple_of(step)
}

/// The fields of one value for a check.
struct Ranges<'a> {
    ty: &'static Type,
    cursor: Cursor<'a>,
    ranges: &'a [(u16, Raw)],
}

impl RawFields for Ranges<'_> {
    fn count(&self) -> usize {
        self.ranges.len()
    }

    fn get(&self, name: &str) -> Option<&str> {
        let index = self.ty.field_index(name)?;
        let found = self.ranges.iter().find(|(known, _)| usize::from(*known) == index);
        found.map(|(_, raw)| raw.text(&self.cursor))
    }
}

#[cfg(test)]
mod tests {
    use super::is_plainly_rounded;
    use crate::wire::quantity::rounded_to_milli;

    #[test]
    fn quantities_that_are_plain_are_left_by_rounding() {
        let mut plain = 0;
        for unit in [
            "n", "u", "m", "", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "i", "e3", ".5",
        ] {
            for number in (0..3000).chain([9_999, 10_000, 102_400, 999_999, 1_000_000, 1_048_576, 1_048_577]) {
                for text in [
                    format!("{number}{unit}"),
                    format!("0{number}{unit}"),
                    format!("-{number}{unit}"),
                ] {
                    if is_plainly_rounded(text.as_bytes()) {
                        assert!(matches!(rounded_to_milli(&text), Ok(None)), "{text}");
                        plain += 1;
                    }
                }
            }
        }
        assert!(plain > 10_000, "{plain}");
    }
}
