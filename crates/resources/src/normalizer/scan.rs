//! Verifies that stored JSON is canonical and complete, without decoding it, and notes what is missing.
//!
//! What this server and Go's wrote is nearly always: every field in its place, nothing that would be omitted, every
//! default set. Then what is served is the stored text with the resource version put in. Where only defaults are absent,
//! or empty members are there that Go would leave out, as in what a client library stored, the scan says what to change
//! in the text. In doubt it says nothing; then the value is decoded and written anew. So the scan must never take what
//! is not canonical, but may leave what is.

mod learn;
mod metadata;
mod values;

use std::borrow::Cow;
use std::ops::Range;

use apiserver_storage_api::{Attributes, SelectableField};

use self::learn::Notes;
pub(super) use self::learn::{Kind, learn};
use self::metadata::Metadata;
use super::canonical::keys;
use super::cursor::Cursor;
use super::edits::{Edits, Place};
use super::missing::{Absent, Owner};
use super::plan::{Fields, Plan, Role, between, bit, plan_of};
use crate::defaults::satisfied::RawFields;
use crate::types::{Gvk, Shape, Type, TypeRegistry};
use crate::wire::MAX_DEPTH;

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
    let mut scan = Scan::new(ty, text, fields, incomplete);
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
    /// While a shape is learned.
    notes: Option<Notes>,
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

impl<'a> Scan<'a> {
    fn new(ty: &Type, text: &'a str, fields: &'a [SelectableField], incomplete: Incomplete) -> Self {
        Self {
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
            notes: None,
        }
    }

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
            notes: self.notes.as_ref(),
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
            return self.text(Kind::Text);
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
}

/// The fields of one value for a check.
struct Ranges<'a> {
    ty: &'static Type,
    cursor: Cursor<'a>,
    ranges: &'a [(u16, Raw)],
    notes: Option<&'a Notes>,
}

impl RawFields for Ranges<'_> {
    fn count(&self) -> usize {
        self.ranges.len()
    }

    fn get(&self, name: &str) -> Option<&str> {
        let index = self.ty.field_index(name)?;
        let found = self.ranges.iter().find(|(known, _)| usize::from(*known) == index);
        if let (Some(notes), Some((_, raw))) = (self.notes, found) {
            notes.asked(raw);
        }
        found.map(|(_, raw)| raw.text(&self.cursor))
    }
}
