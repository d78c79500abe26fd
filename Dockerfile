# syntax=docker/dockerfile:1
# The proxy as an image: only what it runs, as an unprivileged user, on a root file system that may be read-only. Everything it
# keeps is in /data. deploy/README.md says how to run it.
#
# Pin the base by its digest, so that a build next month is the same. `docker buildx imagetools inspect node:24-bookworm-slim` prints it:
#   docker build --build-arg NODE_IMAGE=node:24-bookworm-slim@sha256:… -t scrapellm-proxy .
ARG NODE_IMAGE=node:24-bookworm-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /build
COPY package.json package-lock.json ./
COPY engine engine
# The image has its own Node: none from the lock file.
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
# --chmod: the checkout may come from a user with umask 077, and the proxy runs as another user.
COPY --chmod=755 package.json ./
COPY --chmod=755 --from=dependencies /build/node_modules node_modules
COPY --chmod=755 --from=build /build/dist dist
COPY --chmod=755 config config
COPY --chmod=755 deploy/container.yaml deploy/container.yaml
# Group 0 may write: OpenShift runs images as a user id of its own in group 0.
RUN install --directory --owner=1000 --group=0 --mode=0770 /data
VOLUME /data
USER 1000:0
EXPOSE 8080 9464
# /healthz needs no token. The admin port may have a certificate (`admin.tls`), whose name is not the loopback address. For another
# admin port: --env ADMIN_PORT=N.
HEALTHCHECK --interval=15s --timeout=3s --start-period=20s --retries=3 \
  CMD ["node", "-e", "const ask = (scheme) => new Promise((ok, failed) => require(`node:${scheme}`).get({ host: '127.0.0.1', port: process.env.ADMIN_PORT ?? 9464, path: '/healthz', rejectUnauthorized: false }, (answer) => (answer.statusCode === 200 ? ok() : failed())).on('error', failed)); ask('http').catch(() => ask('https')).then(() => process.exit(0), () => process.exit(1))"]
# Node itself, not npm: npm would pass a signal on twice and cut the drain short. SIGUSR1 must not open the inspector.
ENTRYPOINT ["node", "--disable-sigusr1", "dist/main.js"]
CMD ["--config", "deploy/container.yaml"]
