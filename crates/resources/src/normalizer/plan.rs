//! What the scan knows of each type before it sees a value: how to find a key, which members must be there, and what
//! Go would have written for one that is not.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::canonical::{is_always_written, may_be_empty};
use super::cursor::Cursor;
use super::missing::{Decide, decide_of};
use crate::defaults::{Completeness, apply_type_defaults, completeness};
use crate::types::{Field, Form, Shape, Type, TypeId, TypeRegistry};
use crate::wire::{MAX_DEPTH, encode_value};

/// A set of fields of one type, a bit for each.
pub(super) type Fields = u64;
/// A type with more fields is left to the decoder; there is none.
const MOST: usize = 64;

/// What the scan needs of one type.
pub(super) struct Plan {
    pub(super) ty: &'static Type,
    pub(super) role: Role,
    pub(super) completeness: &'static Completeness,
    /// The begins of the names, in the order of the fields.
    keys: Vec<Begin>,
    /// The fields that Go writes in any case, and those with one default.
    pub(super) needed: Fields,
    /// The fields with one default.
    pub(super) defaulted: Fields,
    pub(super) resource_lists: Fields,
    /// The fields whose default depends on those before them.
    pub(super) dependent: Fields,
    decide: Option<Decide>,
    /// What stands for an absent field that is needed.
    texts: Vec<Option<Box<str>>>,
}

/// Types that the scan has rules of its own for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Pod,
    PodSpec,
    Job,
    JobSpec,
    Resources,
    Volume,
    Other,
}

impl Role {
    pub(super) fn of(ty: &Type) -> Self {
        match ty.name {
            "core.v1.Pod" => Self::Pod,
            "core.v1.PodSpec" => Self::PodSpec,
            "batch.v1.Job" => Self::Job,
            "batch.v1.JobSpec" => Self::JobSpec,
            "core.v1.ResourceRequirements" => Self::Resources,
            "core.v1.Volume" => Self::Volume,
            _ => Self::Other,
        }
    }
}

/// The first bytes of a name and its closing quote, as far as eight bytes go.
#[derive(Clone, Copy, Debug)]
struct Begin {
    word: u64,
    mask: u64,
}

impl Begin {
    fn of(name: &str) -> Self {
        let (mut word, mut mask) = ([0; 8], [0; 8]);
        for ((word, mask), byte) in word.iter_mut().zip(&mut mask).zip(name.bytes().chain([b'"'])) {
            (*word, *mask) = (byte, u8::MAX);
        }
        Self {
            word: u64::from_le_bytes(word),
            mask: u64::from_le_bytes(mask),
        }
    }
}

/// A bit for one field.
pub(super) fn bit(index: usize) -> Fields {
    if index < MOST { 1 << index } else { 0 }
}

/// The fields from one on and before another one.
pub(super) fn between(from: usize, to: usize) -> Fields {
    let below = |index: usize| match index {
        0..MOST => (1 << index) - 1,
        _ => Fields::MAX,
    };
    below(to) & !below(from)
}

/// The plan of a type; `None` for one with a rule that only the decoded value can tell about.
pub(super) fn plan_of(ty: TypeId) -> Option<&'static Plan> {
    static PLANS: LazyLock<Vec<Option<Plan>>> =
        LazyLock::new(|| TypeRegistry::builtin().types().iter().map(Plan::new).collect());
    PLANS.get(usize::from(ty.0))?.as_ref()
}

impl Plan {
    fn new(ty: &'static Type) -> Option<Self> {
        let completeness = completeness(ty.id)?;
        if ty.form != Form::Struct || ty.fields.len() > MOST {
            return None;
        }
        let set = |wanted: &dyn Fn(usize, &Field) -> bool| {
            let fields = ty.fields.iter().enumerate();
            fields.fold(
                0,
                |set, (index, field)| if wanted(index, field) { set | bit(index) } else { set },
            )
        };
        let defaulted = set(&|index, _| completeness.defaulted.contains(&index));
        let (dependent, decide) = decide_of(ty.name).unzip();
        let dependent: &[&str] = dependent.unwrap_or_default();
        Some(Self {
            ty,
            role: Role::of(ty),
            completeness,
            keys: ty.fields.iter().map(|field| Begin::of(field.name)).collect(),
            needed: defaulted | set(&|_, field| is_always_written(field)),
            defaulted,
            resource_lists: set(&|index, _| completeness.resource_lists.contains(&index)),
            dependent: set(&|_, field| dependent.contains(&field.name)),
            decide,
            texts: texts_of(ty),
        })
    }

    /// The field from `next` on whose key stands at the cursor; steps over the key and its colon.
    #[inline]
    pub(super) fn find(&self, cursor: &mut Cursor<'_>, next: usize) -> Option<usize> {
        let word = cursor.key_word()?;
        let keys = self.keys.get(next..)?;
        let mut from = 0;
        loop {
            from += keys
                .get(from..)?
                .iter()
                .position(|begin| word & begin.mask == begin.word)?;
            let index = next + from;
            if cursor.accept_begun(self.ty.fields.get(index)?.name) {
                return Some(index);
            }
            from += 1;
        }
    }

    /// What stands for an absent field that is needed.
    pub(super) fn text(&'static self, index: usize) -> Option<&'static str> {
        self.texts.get(index)?.as_deref()
    }

    /// How an absent field whose default depends on others is decided.
    pub(super) fn decide(&self) -> Option<Decide> {
        self.decide
    }

    /// Whether this empty value may stand in the field, as Go writes it and with no default in its place.
    pub(super) fn may_be_empty(&self, index: usize, field: &Field, text: &str) -> bool {
        if !may_be_empty(field, text) {
            return false;
        }
        let may_be_zero = field.pointer || matches!(field.shape, Shape::Type(_));
        self.defaulted & bit(index) == 0 || text != "null" && may_be_zero
    }
}

/// What the members of an empty value of the type are, with their defaults, as they are written.
fn texts_of(ty: &'static Type) -> Vec<Option<Box<str>>> {
    let mut texts = vec![None; ty.fields.len()];
    let mut empty = Value::Object(Map::new());
    apply_type_defaults(ty, &mut empty);
    let Ok(written) = encode_value(ty, &empty) else {
        return texts;
    };
    let written: Cow<'_, str> = String::from_utf8_lossy(&written);
    let mut cursor = Cursor::new(&written);
    let mut next = 0;
    let _ = cursor.accept(b"{");
    while let Some(index) = (next..ty.fields.len()).find(|index| cursor.accept_key(ty.fields[*index].name)) {
        let start = cursor.at();
        if cursor.any(MAX_DEPTH).is_none() {
            break;
        }
        texts[index] = Some(cursor.slice(start..cursor.at()).into());
        let _ = cursor.accept(b",");
        next = index + 1;
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_fields_has_room_for_every_type() {
        for ty in TypeRegistry::builtin().types() {
            assert!(ty.fields.len() <= MOST, "{} has {} fields", ty.name, ty.fields.len());
        }
        assert_eq!(between(0, 0) | between(5, 5) | between(MOST, usize::MAX), 0);
        assert_eq!((between(0, usize::MAX), between(1, 3)), (Fields::MAX, 0b110));
        assert_eq!((bit(0), bit(63), bit(64)), (1, 1 << 63, 0));
    }

    #[test]
    fn what_stands_for_an_absent_field_is_what_go_writes() {
        let plan = |name| plan_of(TypeRegistry::builtin().by_name(name).expect(name).id).expect(name);
        for (ty, field, want) in [
            ("core.v1.Container", "terminationMessagePolicy", Some("\"File\"")),
            ("core.v1.Container", "name", Some("\"\"")),
            ("core.v1.Container", "resources", Some("{}")),
            ("core.v1.PodSpec", "containers", Some("null")),
            ("core.v1.PodSpec", "terminationGracePeriodSeconds", Some("30")),
            ("core.v1.PodSpec", "nodeName", None),
        ] {
            let plan = plan(ty);
            let index = plan.ty.field_index(field).expect(field);
            assert_eq!(plan.text(index), want, "{ty} {field}");
            assert_eq!(plan.needed & bit(index) != 0, want.is_some(), "{ty} {field}");
        }
    }
}
