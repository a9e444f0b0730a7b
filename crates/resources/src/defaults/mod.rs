//! Defaults of built-in kinds: what Go's defaulting functions set on create, on update and on read.
//!
//! Most defaults are data: a field has one value whenever its struct is there and the field is not. What depends on
//! other fields is a rule on a type, see `rules`. Both are bound to types once, and a walk goes only where something
//! can be set.
//!
//! ```
//! use apiserver_resources::{defaults::apply_defaults, types::Gvk};
//!
//! let mut service = serde_json::json!({"spec": {"ports": [{"port": 80}]}});
//! apply_defaults(Gvk::new("", "v1", "Service"), &mut service);
//! assert_eq!(
//!     service["spec"],
//!     serde_json::json!({
//!         "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
//!         "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
//!     })
//! );
//! ```
//!
//! Not set here: the time of a device taint (a default that differs on each read is none), and what strategies and
//! admission set, such as `spec.clusterIP` of services.

mod image;
mod rules;
pub(crate) mod satisfied;

use std::sync::LazyLock;

use serde_json::{Map, Value};

pub(crate) use self::image::has_latest_tag;
use self::rules::Rule;
use crate::types::{Field, Form, Gvk, Shape, Type, TypeId, TypeRegistry};
use crate::wire::quantity;

/// Sets what is absent and has a default. A kind that is not built in has none, and a value of another shape than its
/// type is left to validation.
pub fn apply_defaults(gvk: Gvk<'_>, object: &mut Value) {
    if let (Some(ty), Value::Object(members)) = (TypeRegistry::builtin().by_gvk(gvk), object) {
        PLAN.apply(ty, members);
    }
}

/// As [`apply_defaults`], for a value of any type.
pub fn apply_type_defaults(ty: &Type, value: &mut Value) {
    if let Value::Object(members) = value {
        PLAN.apply(ty, members);
    }
}

static PLAN: LazyLock<Plan> = LazyLock::new(|| Plan::new(TypeRegistry::builtin()));

/// What a value of a type must have so that nothing would be set directly in it.
pub(crate) struct Completeness {
    /// The fields with a default, ascending.
    pub(crate) defaulted: Vec<usize>,
    /// The fields that are resource lists.
    pub(crate) resource_lists: Vec<usize>,
    /// Whether the rule would set nothing.
    pub(crate) check: Option<satisfied::Check>,
}

/// What a value of this type must have; `None` for a type with a rule that only the decoded value can tell about.
pub(crate) fn completeness(ty: TypeId) -> Option<&'static Completeness> {
    static COMPLETENESS: LazyLock<Vec<Option<Completeness>>> =
        LazyLock::new(|| PLAN.registry.types().iter().map(|ty| PLAN.completeness(ty)).collect());
    COMPLETENESS.get(usize::from(ty.0))?.as_ref()
}

/// What is to be done, by type.
struct Plan {
    registry: &'static TypeRegistry,
    types: Vec<TypePlan>,
}

/// What is to be done with a value of one type.
#[derive(Default)]
struct TypePlan {
    /// Fields with one default.
    simple: Vec<(u16, Value)>,
    /// What depends on other fields. Runs after the simple ones and before the fields inside.
    rule: Option<Rule>,
    /// The fields inside which something can be set.
    inside: Vec<u16>,
    /// The fields that are resource lists: their quantities become canonical.
    resource_lists: Vec<u16>,
    /// Whether an absent struct of this type gets something, so that it has to be made.
    sets_on_empty: bool,
}

impl TypePlan {
    fn does_something(&self) -> bool {
        !self.simple.is_empty() || self.rule.is_some() || !self.inside.is_empty() || !self.resource_lists.is_empty()
    }
}

impl Plan {
    fn new(registry: &'static TypeRegistry) -> Self {
        let mut types: Vec<TypePlan> = registry.types().iter().map(|ty| own_plan(registry, ty)).collect();
        // Types nest in cycles (a schema in a schema), so what is reached grows until nothing is added.
        loop {
            let mut grown = false;
            for (at, ty) in registry.types().iter().enumerate() {
                for (index, field) in (0_u16..).zip(&ty.fields) {
                    let Some(inner) = struct_inside(registry, field) else {
                        continue;
                    };
                    let inner = &types[usize::from(inner.0)];
                    let (does_something, sets_on_empty) = (inner.does_something(), inner.sets_on_empty);
                    let own = &mut types[at];
                    if does_something && !own.inside.contains(&index) {
                        own.inside.push(index);
                        grown = true;
                    }
                    let in_place = !field.pointer && field.shape.type_id().is_some();
                    if in_place && sets_on_empty && !own.sets_on_empty {
                        own.sets_on_empty = true;
                        grown = true;
                    }
                }
            }
            if !grown {
                return Self { registry, types };
            }
        }
    }

    fn completeness(&self, ty: &Type) -> Option<Completeness> {
        let plan = &self.types[usize::from(ty.id.0)];
        let check = satisfied::check_of(ty.name);
        // The rules of pods and jobs look into the types below, and the scan does that.
        let is_looked_into = matches!(ty.name, "core.v1.Pod" | "batch.v1.Job");
        if plan.rule.is_some() && check.is_none() && !is_looked_into {
            return None;
        }
        let mut defaulted: Vec<usize> = plan.simple.iter().map(|(index, _)| usize::from(*index)).collect();
        defaulted.sort_unstable();
        let resource_lists = plan.resource_lists.iter().map(|index| usize::from(*index)).collect();
        Some(Completeness {
            defaulted,
            resource_lists,
            check,
        })
    }

    fn apply(&self, ty: &Type, members: &mut Map<String, Value>) {
        let plan = &self.types[usize::from(ty.id.0)];
        for (index, default) in &plan.simple {
            let field = &ty.fields[usize::from(*index)];
            if is_absent(field, members.get(field.name)) {
                members.insert(field.name.to_owned(), default.clone());
            }
        }
        if let Some(rule) = &plan.rule {
            (rule.run)(members);
        }
        for index in &plan.resource_lists {
            if let Some(Value::Object(list)) = members.get_mut(ty.fields[usize::from(*index)].name) {
                list.values_mut().for_each(make_canonical);
            }
        }
        for index in &plan.inside {
            self.inside(&ty.fields[usize::from(*index)], members);
        }
    }

    fn inside(&self, field: &Field, members: &mut Map<String, Value>) {
        if let (Shape::Type(id), false) = (&field.shape, field.pointer)
            && self.types[usize::from(id.0)].sets_on_empty
            && members.get(field.name).is_none_or(Value::is_null)
        {
            members.insert(field.name.to_owned(), Value::Object(Map::new()));
        }
        if let Some(value) = members.get_mut(field.name) {
            self.shape(&field.shape, value);
        }
    }

    fn shape(&self, shape: &Shape, value: &mut Value) {
        match (shape, value) {
            (Shape::Type(id), Value::Object(members)) => self.apply(&self.registry[*id], members),
            (Shape::List { item, .. }, Value::Array(items)) => {
                items.iter_mut().for_each(|value| self.shape(item, value))
            }
            (Shape::Map(item), Value::Object(members)) => {
                members.values_mut().for_each(|value| self.shape(item, value))
            }
            _ => {}
        }
    }
}

fn own_plan(registry: &TypeRegistry, ty: &Type) -> TypePlan {
    let mut plan = TypePlan {
        rule: rules::rule_of(ty.name),
        ..TypePlan::default()
    };
    for (index, field) in (0_u16..).zip(&ty.fields) {
        if let [default] = field.go_defaults.as_slice()
            && !rules::is_conditional(ty.name, field.name)
        {
            plan.simple.push((index, default.clone()));
        }
        let is_quantities = match &field.shape {
            Shape::Map(item) => item.type_id().is_some_and(|id| registry[id].form == Form::Quantity),
            _ => false,
        };
        if is_quantities && rules::has_resource_lists(ty.name) {
            plan.resource_lists.push(index);
        }
    }
    plan.sets_on_empty = !plan.simple.is_empty() || plan.rule.as_ref().is_some_and(|rule| rule.sets_on_empty);
    plan
}

/// The struct type at the bottom of a field.
fn struct_inside(registry: &TypeRegistry, field: &Field) -> Option<TypeId> {
    field
        .shape
        .innermost_type()
        .filter(|id| registry[*id].form == Form::Struct)
}

/// Whether Go would see the zero value: nothing or null, and where no pointer tells them apart, the empty value.
fn is_absent(field: &Field, value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(_) if field.pointer => false,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(Value::Bool(flag)) => !flag,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(_)) => false,
    }
}

/// Rounds a quantity up to thousandths, which also makes its text canonical.
fn make_canonical(value: &mut Value) {
    let rounded = match &*value {
        Value::String(text) => quantity::rounded_to_milli(text.trim()).ok().flatten(),
        Value::Number(number) => {
            let text = number.to_string();
            quantity::rounded_to_milli(&text)
                .ok()
                .map(|rounded| rounded.unwrap_or(text))
        }
        _ => None,
    };
    if let Some(rounded) = rounded {
        *value = Value::String(rounded);
    }
}
