"""MLServer's side: one custom runtime per model, as its documentation shows."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from onnx_models import Served


class Runtime(MLModel):
    async def load(self):
        self.served = Served(self.settings.name.removesuffix("_batched"))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        results = self.served.run({each.name: NumpyCodec.decode_input(each) for each in payload.inputs})
        outputs = [NumpyCodec.encode_output(name, array) for name, array in results.items()]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)
