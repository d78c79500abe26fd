/**
 * The style and the script of the pages. Colours are pairs with a contrast of at least 4.5 in both schemes; nothing is said by
 * colour alone. The script only replaces what the server has rendered: without it the page is the same and reloads itself.
 */

export const style = `
:root{color-scheme:light dark;--back:#f4f4f1;--panel:#fff;--text:#1b1d22;--soft:#555b66;--line:#d9dade;--link:#0b57a4;
--good:#17663a;--good-back:#e2f3e8;--warn:#7a4b00;--warn-back:#fdf0d5;--bad:#a8201a;--bad-back:#fce7e5;--track:#e4e5e8;
--c1:#2f8f5b;--c2:#3b76c4;--c3:#8a6fb8;--c4:#c98412;--c5:#c0392f}
@media (prefers-color-scheme:dark){:root{--back:#13151a;--panel:#1c1f26;--text:#e7e9ee;--soft:#a6aebb;--line:#343944;--link:#8cbcff;
--good:#74d79f;--good-back:#173325;--warn:#f2b95f;--warn-back:#3a2c12;--bad:#ff9f97;--bad-back:#421d1b;--track:#343944;
--c1:#5cc08a;--c2:#7db1f2;--c3:#b79be6;--c4:#f2b95f;--c5:#ff8a80}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1rem;max-width:90rem;background:var(--back);color:var(--text);font:15px/1.45 system-ui,sans-serif}
h1{font-size:1.25rem;margin:0}h2{font-size:1rem;margin:0 0 .6rem}h3{font-size:.95rem;margin:0}
p{margin:.3rem 0}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:3px}
main:focus{outline:none}
.skip{position:absolute;left:-99rem}
.skip:focus{position:static;display:inline-block;margin-bottom:.5rem}
header{display:flex;flex-wrap:wrap;gap:.5rem 1.25rem;align-items:center;margin-bottom:1rem}
header .grow{flex:1 1 auto}
small{font-size:.8em;font-weight:400}
.soft{color:var(--soft)}
form{display:flex;flex-wrap:wrap;gap:.4rem;align-items:center}
input,select,button{font:inherit;color:inherit;background:var(--panel);border:1px solid var(--soft);border-radius:6px;padding:.35rem .6rem;min-height:2.25rem}
input{width:11rem;max-width:100%}
section form{margin:.4rem 0}td form{margin:.2rem 0 0}
button{cursor:pointer}
button[aria-pressed=true]{background:var(--warn-back);color:var(--warn)}
.health{border-radius:10px;padding:.75rem 1rem;margin:0 0 1rem;font-size:1.1rem;border:1px solid currentcolor}
.health p{margin:0;overflow-wrap:anywhere}
.grid{display:grid;margin-top:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,25rem),1fr));gap:1rem;align-items:start}
.charts{grid-template-columns:repeat(auto-fit,minmax(min(100%,18rem),1fr))}
.wide-columns{grid-template-columns:repeat(auto-fit,minmax(min(100%,34rem),1fr))}
section{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:.9rem 1rem;min-width:0}
.all{grid-column:1/-1}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.32rem .75rem .32rem 0;vertical-align:top;border-top:1px solid var(--line);overflow-wrap:break-word}
thead th{border-top:0;color:var(--soft);font-weight:600;font-size:.85rem;overflow-wrap:normal}
th[scope=row]{font-weight:600;min-width:3.4rem}
th:last-child,td:last-child{padding-right:0}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;overflow-wrap:normal}
time{font-variant-numeric:tabular-nums;white-space:nowrap}
.id{font-family:ui-monospace,monospace;font-size:.88em;overflow-wrap:anywhere}
.clip .id{display:block;max-width:26rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;padding:1px}
.tag{display:inline-block;border-radius:5px;padding:0 .4rem;white-space:nowrap}
.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}
.tag.good,.health.good{background:var(--good-back)}.tag.warn,.health.warn{background:var(--warn-back)}.tag.bad,.health.bad{background:var(--bad-back)}
.bar{display:block;width:100%;height:.5rem;margin-top:.25rem}
.bar .track{fill:var(--track)}.bar .fill{fill:currentcolor}
.chart{display:block;width:100%;height:8.5rem}
.chart .axis{stroke:var(--line)}.chart .mark line{stroke:var(--soft);stroke-dasharray:3 3}.chart .mark line,.chart .line{vector-effect:non-scaling-stroke}
.chart .line{fill:none;stroke:currentcolor;stroke-width:1.75}.chart .area{fill:currentcolor}
.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}
figure{margin:0;min-width:0}figcaption{font-weight:600;margin-bottom:.3rem}
.scale{display:flex;justify-content:space-between;font-size:.85rem}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.9rem}
.swatch{display:inline-block;width:.75rem;height:.75rem;border-radius:2px;background:currentcolor;margin-right:.35rem}
details{font-size:.9rem}
.offline{background:var(--bad-back);color:var(--bad);border-radius:6px;padding:.35rem .6rem;margin:0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;margin:0}
dt{color:var(--soft)}dd{margin:0;min-width:0;overflow-wrap:anywhere}
ul{margin:.3rem 0;padding-left:1.2rem}
.stack>*+*{margin-top:1rem}
.narrow{display:none}
.below{display:block;font-weight:400}
.hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
@media (max-width:48rem){
.wide{display:none}.narrow{display:block;font-weight:400}
th,td{padding-right:.5rem;overflow-wrap:anywhere}th .tag{white-space:normal}select{max-width:100%}
.clip .id{max-width:35vw}
input{width:100%}form{flex:1 1 100%}label{flex:1 1 100%}form input{flex:1 1 8rem;width:auto}
dl{grid-template-columns:minmax(0,8rem) 1fr}
table.cards,table.cards tbody,table.cards tr,table.cards th,table.cards td{display:block}
table.cards thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table.cards tr{border-top:1px solid var(--line);padding:.5rem 0}
table.cards th,table.cards td{border:0;padding:.1rem 0;text-align:left}
table.cards td[data-name]{display:grid;grid-template-columns:6.5rem 1fr}
table.cards td[data-name]::before{content:attr(data-name);color:var(--soft)}
}`

export const liveScript = `
const everyMs = 2000, pause = document.getElementById('pause'), offline = document.getElementById('offline')
let isPaused = false
pause.hidden = false
pause.addEventListener('click', () => {
  isPaused = !isPaused
  pause.setAttribute('aria-pressed', String(isPaused))
})
function put(part) {
  const old = document.getElementById(part.id)
  if (!old || old.innerHTML === part.innerHTML) return
  const nameOf = (one) => one.getAttribute('href') ?? one.form?.getAttribute('action')
  const focus = old.contains(document.activeElement) ? nameOf(document.activeElement) : null
  const opened = Array.from(old.querySelectorAll('details[open] > summary'), (one) => one.textContent)
  for (const one of part.querySelectorAll('summary')) one.parentElement.open = opened.includes(one.textContent)
  old.className = part.className
  old.replaceChildren(...part.childNodes)
  if (focus) for (const one of old.querySelectorAll('a,button')) if (nameOf(one) === focus) return one.focus()
}
async function update() {
  if (!isPaused && !document.hidden) {
    try {
      const url = new URL(location.href)
      url.searchParams.set('fragment', '')
      url.hash = ''
      const answer = await fetch(url, { headers: { accept: 'text/html' } })
      const next = new DOMParser().parseFromString(await answer.text(), 'text/html')
      const parts = next.querySelectorAll('[data-live]')
      parts.forEach(put)
      offline.hidden = parts.length > 0
    } catch {
      offline.hidden = false
    }
  }
  window.setTimeout(update, everyMs)
}
window.setTimeout(update, everyMs)
`
