// Uses the dashboard as a person would, in headless Chromium, and prints what it saw as one line of JSON.
//
//   node dashboard.mjs CHROMIUM URL use MODEL           wakes, pins, unpins and puts MODEL to sleep, by mouse and by keyboard
//   node dashboard.mjs CHROMIUM URL look [FILE]         looks at all of it, and makes a picture
//   node dashboard.mjs CHROMIUM URL shot FILE [WIDTH] [dark] [SECONDS] [SELECTOR]   looks at it for that long, and makes a picture
//   node dashboard.mjs CHROMIUM URL door TOKEN          opens it with a token
import { chromium } from 'playwright-core'

const [program, base, what, ...args] = process.argv.slice(2)
const browser = await chromium.launch({ executablePath: program, args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'] })
const seen = { errors: [], elsewhere: [], steps: [] }

async function open(options = {}) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, ...options })
  page.setDefaultTimeout(30000)
  page.on('console', (m) => { if (m.type() === 'error' || m.type() === 'warning') seen.errors.push(m.text()) })
  page.on('pageerror', (e) => seen.errors.push(String(e)))
  page.on('dialog', (d) => { seen.errors.push(`a script ran: ${d.message()}`); d.dismiss() })
  page.on('request', (r) => { if (new URL(r.url()).origin !== new URL(base).origin) seen.elsewhere.push(r.url()) })
  await page.goto(base)
  return page
}

const step = (name) => seen.steps.push(name)

// look opens the page, and goes to the end of the models.
async function look(file) {
  const page = await open()
  await page.locator('#link[data-link="live"]').waitFor()
  await page.locator('#rows tr:not(.spacer)').first().waitFor()
  seen.models = await page.locator('#count').textContent()
  seen.rows = await page.locator('#rows tr:not(.spacer)').count()
  seen.images = await page.locator('main img').count() // markup in names would be some
  seen.failed = await page.locator('#rows .state.failed').first().textContent()
  step('opened')

  await page.locator('#window').evaluate((box) => { box.scrollTop = box.scrollHeight })
  await page.waitForFunction(() => document.querySelectorAll('#rows tr:not(.spacer)').length > 0 && !document.querySelector('#rows tr:last-child.spacer'))
  step('scrolled to the end')
  seen.rowsAtTheEnd = await page.locator('#rows tr:not(.spacer)').count()
  if (file) {
    await page.locator('#window').evaluate((box) => { box.scrollTop = 0 })
    await page.waitForTimeout(500)
    await page.screenshot({ path: file, fullPage: true })
  }
  return page
}

async function use(model) {
  const page = await look()
  await page.getByRole('searchbox').fill(model)
  const row = page.locator('#rows tr', { has: page.getByRole('rowheader', { name: model, exact: true }) })
  await row.waitFor()
  seen.filtered = await page.locator('#rows tr:not(.spacer)').count()
  step('filtered')

  const press = async (verb, answer) => {
    await row.getByRole('button', { name: `${verb} ${model}`, exact: true }).click()
    await page.getByRole('heading', { name: `${verb} ${model}?` }).waitFor()
    await page.locator('#ask').getByRole('button', { name: answer }).click()
  }
  await press('Wake', 'Cancel')
  await row.getByRole('button', { name: `Wake ${model}`, exact: true }).click()
  await page.keyboard.press('Escape')
  seen.cancelled = (await row.locator('.state').textContent()).trim()
  step('cancelled')

  await press('Wake', 'Wake it')
  await row.locator('.state.ready').waitFor()
  step('woke')
  await press('Pin', 'Pin it')
  await row.locator('.pin').waitFor()
  step('pinned')
  await press('Unpin', 'Unpin it')
  await row.locator('.pin').waitFor({ state: 'detached' })
  step('unpinned')

  const sleep = row.getByRole('button', { name: `Sleep ${model}`, exact: true }) // by keyboard alone
  await sleep.focus()
  await page.keyboard.press('Enter')
  await page.keyboard.press('Tab') // from Cancel, where the focus is
  await page.keyboard.press('Enter')
  await row.locator('.state.asleep, .state.stopped').waitFor()
  step('slept')
  await page.locator('summary').click()
  await page.locator('#changes li').first().waitFor()

  const phone = await open({ viewport: { width: 360, height: 740 } })
  await phone.locator('#rows tr:not(.spacer)').first().waitFor()
  seen.wide = await phone.evaluate(() => document.documentElement.scrollWidth)
  seen.nameless = await phone.evaluate(() => [...document.querySelectorAll('button, input, select')].filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).length)
}

// door expects to be asked for the token, tries a wrong one, then the right one.
async function door(token) {
  const page = await open()
  await page.getByRole('textbox', { name: 'Token' }).fill('0000000000000000')
  await page.getByRole('button', { name: 'Open' }).click()
  await page.getByText('That is not the token').waitFor()
  await page.getByRole('textbox', { name: 'Token' }).fill(token)
  await page.getByRole('button', { name: 'Open' }).click()
  await page.locator('#link[data-link="live"]').waitFor()
  await page.locator('#rows tr:not(.spacer)').first().waitFor()
  step('opened')
  seen.errors = seen.errors.filter((e) => !e.includes('401')) // Chromium says of each that it came
}

async function shot(file, width = '1280', scheme = 'light', seconds = '2', selector = '') {
  const page = await open({ viewport: { width: Number(width), height: 900 }, colorScheme: scheme })
  await page.locator('#link[data-link="live"]').waitFor()
  await page.waitForTimeout(Number(seconds) * 1000)
  if (selector) await page.locator(selector).scrollIntoViewIfNeeded()
  await page.screenshot({ path: file, fullPage: selector === '' })
}

try {
  await { use, look, door, shot }[what](...args)
} catch (err) {
  seen.errors.push(`after ${seen.steps.at(-1) ?? 'nothing'}: ${err.message}`)
} finally {
  await browser.close()
}
console.log(JSON.stringify(seen))
