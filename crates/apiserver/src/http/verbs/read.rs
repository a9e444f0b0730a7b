//! Get.

use http::{Response, StatusCode};

use apiserver_registry::{ApiError, StorageVerb, from_storage_error};

use crate::http::body::Body;
use crate::http::options;
use crate::http::respond;
use crate::http::verbs::Call;

pub(crate) async fn get(call: &Call) -> Result<Response<Body>, ApiError> {
    let representation = call.negotiate(false)?;
    let at = options::read_at(&call.query)?;
    let entry = call.resource.get(&call.context, &call.path.name, at).await?;
    let json = entry
        .json()
        .map_err(|error| from_storage_error(error, StorageVerb::Get, call.resource.info(), &call.path.name))?;
    let json = call.model.served(json)?;
    respond::object(StatusCode::OK, &json, &*call.model, representation, &call.asked())
}
