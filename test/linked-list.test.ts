/** Who comes and goes with every request: the order they came in, and that whoever has left is no longer held by its place. */
import t from 'tap'
import { createLinkedList } from '../src/linked-list.ts'

const person = (name: string): { readonly name: string } => ({ name })

void t.test('roster: members in the order they came', (t) => {
  const roster = createLinkedList<{ readonly name: string }>()
  t.same([...roster], [])
  for (const name of ['a', 'b', 'c']) roster.add(person(name))
  t.same(
    [...roster].map(({ name }) => name),
    ['a', 'b', 'c'],
  )
  t.equal(roster.size, 3)
  t.end()
})

for (const leaver of ['a', 'b', 'c']) {
  void t.test(`roster: without ${leaver}, the others are where they were`, (t) => {
    const roster = createLinkedList<{ readonly name: string }>()
    const places = ['a', 'b', 'c'].map((name) => roster.add(person(name)))
    const place = places.find(({ member }) => member?.name === leaver)
    place?.leave()
    const left = ['a', 'b', 'c'].filter((name) => name !== leaver)
    t.same(
      [...roster].map(({ name }) => name),
      left,
    )
    t.equal(place?.member, null, 'its place is empty')
    place?.leave()
    t.equal(roster.size, 2, 'who left twice left once')
    roster.add(person('d'))
    t.same(
      [...roster].map(({ name }) => name),
      [...left, 'd'],
    )
    for (const one of places) one.leave()
    t.equal(roster.size, 1)
    t.end()
  })
}

void t.test('roster: those that leave while it is read are passed over', (t) => {
  const roster = createLinkedList<{ readonly name: string }>()
  const [, second] = ['a', 'b', 'c'].map((name) => roster.add(person(name)))
  const seen: string[] = []
  for (const { name } of roster) {
    seen.push(name)
    second?.leave()
  }
  t.same(seen, ['a', 'c'])
  t.end()
})
