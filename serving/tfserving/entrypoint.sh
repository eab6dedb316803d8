#!/bin/sh
# Like the public image's entrypoint: fixed ports, one model by the environment, more flags as arguments.
cd /opt/twinserve
exec python -m serving.tfserving.savedmodel_server --port=8500 --rest_api_port=8501 \
  --model_name="${MODEL_NAME}" --model_base_path="${MODEL_BASE_PATH}/${MODEL_NAME}" "$@"
