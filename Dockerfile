# syntax=docker/dockerfile:1
# The proxy as an image: what runs and nothing else, as a user without rights, on a file system that may be read-only. What is to
# survive lies in /data. deploy/README.md says how to run it.
#
# Pin the base by its digest, so that a build next month is this one. `docker buildx imagetools inspect node:24-bookworm-slim` says it:
#   docker build --build-arg NODE_IMAGE=node:24-bookworm-slim@sha256:… -t scrapellm-proxy .
ARG NODE_IMAGE=node:24-bookworm-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /build
COPY package.json package-lock.json ./
COPY engine engine
# The Node of the image is the one that is wanted: none from the lock file.
RUN npm ci --omit=optional --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json ./
COPY src src
RUN npm run build

FROM ${NODE_IMAGE} AS dependencies
WORKDIR /build
COPY package.json package-lock.json ./
COPY engine engine
RUN npm ci --omit=dev --omit=optional --no-audit --no-fund

FROM ${NODE_IMAGE}
ENV NODE_ENV=production
WORKDIR /app
COPY package.json ./
COPY --from=dependencies /build/node_modules node_modules
COPY --from=build /build/dist dist
COPY config config
COPY deploy/container.yaml deploy/container.yaml
RUN install --directory --owner=1000 --group=1000 --mode=0700 /data
VOLUME /data
USER 1000:1000
EXPOSE 8080 9464
# /healthz needs no token. With another admin port, say so here, too: --env ADMIN_PORT=N.
HEALTHCHECK --interval=15s --timeout=3s --start-period=20s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.ADMIN_PORT ?? 9464}/healthz`).then((a) => process.exit(a.ok ? 0 : 1), () => process.exit(1))"]
# Node itself, not npm: a signal that comes twice would cut the drain.
ENTRYPOINT ["node", "dist/main.js"]
CMD ["--config", "deploy/container.yaml"]
