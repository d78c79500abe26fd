/** A release has one version, wherever it is written. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { root } from './support/process.ts'

const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const manifest = JSON.parse(read('package.json')) as { version: string }

void t.test('the version is the same everywhere', async (t) => {
  const { packages } = JSON.parse(read('package-lock.json')) as { packages: { '': { version: string } } }
  t.equal(packages[''].version, manifest.version)
  t.match(parse(read('deploy/kubernetes/Chart.yaml')), { version: manifest.version, appVersion: manifest.version })
  const { images } = parse(read('deploy/kubernetes/kustomization.yaml')) as { images: { newTag: string }[] }
  t.strictSame(
    images.map(({ newTag }) => newTag),
    [manifest.version],
  )
})
