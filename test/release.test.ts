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

void t.test(
  'the changelog has a place for what comes next, and this version with its date, in the sections of Keep a Changelog',
  async (t) => {
    const headings = read('CHANGELOG.md')
      .split('\n')
      .filter((line) => line.startsWith('## '))
    t.equal(headings[0], '## [Unreleased]')
    t.match(headings[1], /^## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d$/)
    t.ok(headings[1]?.startsWith(`## [${manifest.version}] - `), `${headings[1]} is ${manifest.version}`)
    const sections = read('CHANGELOG.md').matchAll(/^### (.*)$/gm)
    for (const [, name = ''] of sections)
      t.ok(['Added', 'Changed', 'Deprecated', 'Removed', 'Fixed', 'Security'].includes(name), name)
  },
)
