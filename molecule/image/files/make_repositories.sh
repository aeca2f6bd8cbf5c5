#!/bin/sh
# Repositories with the paths, the submodule, the git-lfs file and the build arguments of upstream's, at three tags; and that
# of Triton's server with a build.py of its options and steps, make_repositories.sh BUILD_PY.
set -e
root=/srv/git
[ -e "$root/done" ] && exit 0
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
mkdir -p "$root/lfs" "$root/NVIDIA" "$root/triton-inference-server"
work=$(mktemp -d)
library=cpp/tensorrt_llm/batch_manager/x86_64-linux-gnu/libtensorrt_llm_batch_manager_static.a

git init -q -b main "$work/TensorRT-LLM"
cd "$work/TensorRT-LLM"
mkdir -p docker/common "$(dirname $library)"
echo 'echo TensorRT' > docker/common/install_tensorrt.sh
echo '*.a filter=lfs diff=lfs merge=lfs -text' > .gitattributes
for tag in 0.7.1 0.8.0 0.9.0; do
    # At the last one git-lfs is told to fetch nothing, and says nothing of it.
    [ "$tag" != 0.9.0 ] || printf '[lfs]\n\tfetchexclude = *\n' > .lfsconfig
    head -c 200000 /dev/urandom > "$work/library"
    sum=$(sha256sum "$work/library" | cut -d' ' -f1)
    cp "$work/library" "$root/lfs/$sum"
    printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 200000\n' "$sum" > $library
    echo "__version__ = \"$tag\"" > version.py
    git add -A && git commit -q -m "$tag" && git tag "v$tag"
done
git clone -q --bare . "$root/NVIDIA/TensorRT-LLM.git"

git init -q -b main "$work/backend"
cd "$work/backend"
printf '[submodule "tensorrt_llm"]\n\tpath = tensorrt_llm\n\turl = https://github.com/NVIDIA/TensorRT-LLM.git\n' > .gitmodules
mkdir -p dockerfile inflight_batcher_llm scripts
echo sentencepiece > requirements.txt
echo 'echo build' > inflight_batcher_llm/build.sh
echo launch > scripts/launch_triton_server.py
for row in 0.7.2:0.7.1:23.10 0.8.0:0.8.0:23.12 0.9.0:0.9.0:24.03; do
    tag=${row%%:*}; rest=${row#*:}; inner=${rest%%:*}; base=${rest#*:}
    cat > dockerfile/Dockerfile.trt_llm_backend <<DOCKERFILE
ARG BASE_IMAGE=nvcr.io/nvidia/tritonserver
ARG BASE_TAG=$base-py3
FROM \${BASE_IMAGE}:\${BASE_TAG} as base
COPY requirements.txt /tmp/
FROM base as dev
COPY tensorrt_llm/docker/common/install_tensorrt.sh /tmp/
ARG TORCH_INSTALL_TYPE="pypi"
LABEL torch=\$TORCH_INSTALL_TYPE
FROM dev as final
WORKDIR /app
COPY scripts scripts
COPY tensorrt_llm tensorrt_llm
COPY inflight_batcher_llm inflight_batcher_llm
DOCKERFILE
    cat > dockerfile/Dockerfile.triton.trt_llm_backend <<'DOCKERFILE'
ARG BASE_IMAGE
FROM ${BASE_IMAGE} as base
ARG TRT_VER
ENV TRT_VERSION=$TRT_VER
ARG RELEASE_URL_TRT_x86
ARG RELEASE_URL_TRT_ARM
ENV TENSORRT="$RELEASE_URL_TRT_x86 $RELEASE_URL_TRT_ARM"
DOCKERFILE
    git add -A
    git update-index --add --cacheinfo "160000,$(git -C "$root/NVIDIA/TensorRT-LLM.git" rev-parse "v$inner^{commit}"),tensorrt_llm"
    git commit -q -m "$tag" && git tag "v$tag"
done
git clone -q --bare . "$root/triton-inference-server/tensorrtllm_backend.git"

git init -q -b main "$work/server"
cd "$work/server"
cp "$1" build.py && chmod 755 build.py
echo 2.42.0 > TRITON_VERSION
git add -A && git commit -q -m 24.01 && git branch r24.01
git clone -q --bare . "$root/triton-inference-server/server.git"
touch "$root/done"
