// See driver.mjs.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** From the address that a person types to the overview, with the token typed in. */
export async function signIn({ open, url, token }, options) {
    const page = await open(options);
    await page.goto(`${url}/`);
    await page.waitForURL('**/ui/');
    const field = page.locator('#token');
    const heading = page.locator('main h1');
    await heading.waitFor();
    if (await field.count()) {
        // Nothing is told before.
        assert.equal(await page.locator('.topology').count(), 0);
        await field.fill('a wrong one');
        await page.keyboard.press('Enter');
        await page.locator('[role=alert]').waitFor();
        await page.locator('#token').fill(token);
        await page.keyboard.press('Enter');
    }
    await page.locator('.topology').waitFor();
    return page;
}

const instance = (page, id) => page.locator(`[data-node="i ${id}"]`);
const isReady = (page, id) => page.locator(`[data-node="i ${id}"][data-state="ready"]`).waitFor();
const checked = async (page) => assert.deepEqual(await page.evaluate(() => globalThis.violations), [], 'violations of the policy');

async function findings(page, what) {
    await page.evaluate(axeSource);
    const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
    const told = found.violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html).join(' | ')}`);
    assert.deepEqual(told, [], `axe-core about ${what}`);
}

/** An instance is killed while somebody looks: it goes, and its sessions appear elsewhere, with the time. */
export async function death({ rest: [victim, survivor, handle], say, ...given }) {
    const page = await signIn(given);
    await isReady(page, victim);
    await isReady(page, survivor);
    await page.locator(`[data-node="i ${victim}"] a`, { hasText: /^[1-9]/ }).waitFor();
    say('ready');
    await page.locator(`[data-node="i ${victim}"][data-state="ready"]`).waitFor({ state: 'detached' });
    say('it is not ready any more');
    const moved = page.locator('.happened li.moved', { hasText: `${handle.slice(0, 8)} moved from ${victim} to ${survivor}` });
    await moved.filter({ hasText: /served again after [\d.]+ (µs|ms|s)/ }).waitFor();
    assert.match(await moved.locator('time').innerText(), /^\d\d:\d\d:\d\d$/);
    const failover = page.locator('.failovers li', { hasText: `${victim} gone at` });
    await failover.filter({ hasText: /: [1-9]\d* sessions moved, the slowest served again after [\d.]+ / }).waitFor();
    // Its new owner has it.
    await moved.locator('a').click();
    await page.locator('dd', { hasText: survivor }).first().waitFor();
    await page.locator('tr.moved', { hasText: `moved from ${victim}` }).waitFor();
    await checked(page);
}

/** By keyboard alone: asked, thought better of it, asked again. */
export async function drain({ rest: [id], say, ...given }) {
    const page = await signIn(given);
    await isReady(page, id);
    const button = page.getByRole('button', { name: `Drain ${id}` });
    await button.focus();
    await page.keyboard.press('Enter');
    const dialog = page.getByRole('dialog');
    await dialog.waitFor();
    assert.match(await dialog.innerText(), new RegExp(`Drain ${id}\\?`));
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'detached' });
    assert.ok(await button.evaluate((element) => element === document.activeElement), 'the focus is back');
    assert.equal(await instance(page, id).getAttribute('data-state'), 'ready', 'Escape drains nothing');
    await page.keyboard.press('Enter');
    await dialog.waitFor();
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await page.locator('.told', { hasText: `${id} is asked to drain` }).waitFor();
    say('asked');
    await page.locator('.happened li', { hasText: `${id} drains` }).waitFor();
    await page.locator('.happened li', { hasText: `${id} has let everything go` }).waitFor();
    await page.locator(`[data-node="i ${id}"][data-state="ready"]`).waitFor({ state: 'detached' });
    // Who says that it goes is no failover.
    assert.equal(await page.locator('.failovers li', { hasText: id }).count(), 0);
    await checked(page);
}

/** Found by its first digits, and deleted. */
export async function remove({ rest: [handle, other], say, ...given }) {
    const page = await signIn(given);
    await page.getByRole('link', { name: 'Sessions', exact: true }).click();
    await page.locator(`[data-session="${handle}"]`).waitFor();
    await page.locator(`[data-session="${other}"]`).waitFor();
    await page.getByLabel('Search').fill(handle.slice(0, 8));
    await page.locator(`[data-session="${other}"]`).waitFor({ state: 'detached' });
    await page.getByRole('button', { name: `Delete session ${handle}` }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
    await page.locator('.told', { hasText: `Session ${handle} is deleted` }).waitFor();
    await page.locator(`[data-session="${handle}"]`).waitFor({ state: 'detached' });
    await page.getByLabel('Search').fill('');
    await page.locator(`[data-session="${other}"]`).waitFor();
    say('deleted');
    await page.getByRole('link', { name: 'Overview' }).click();
    await page.locator('.happened li', { hasText: `Session ${handle.slice(0, 8)} was deleted` }).waitFor();
    await checked(page);
}

/** What became of a request, while it is under way and after its answer. */
export async function timeline({ rest: [handle, request], say, ...given }) {
    const page = await signIn(given);
    await page.goto(`${given.url}/ui/#/sessions/${handle}`);
    const step = (text) => page.locator('[data-step]', { hasText: text });
    await step('Created').waitFor();
    await step(`Request ${request} accepted (tools/call)`).waitFor();
    await step(`Request ${request} forwarded to the server (tools/call)`).waitFor();
    say('under way');
    await step(new RegExp(`Request ${request} answered · delivered`)).waitFor();
    await step(`Request ${request} accepted`).waitFor({ state: 'detached' });
    assert.ok(!(await page.locator('main').innerText()).includes('a secret word'), 'what it says is not told');
    await checked(page);
}

/** Chinese and English, light and dark, kept over a reload; nothing that axe-core finds in any of them. */
export async function languages({ rest: [handle], say, ...given }) {
    const page = await signIn(given, { colorScheme: 'dark' });
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const looks = (theme) => page.waitForFunction((wanted) => document.documentElement.dataset.theme === wanted, theme);
    await looks('dark');
    const dark = await background();
    await page.getByLabel('Theme').selectOption('light');
    await looks('light');
    assert.notEqual(await background(), dark);
    await page.getByLabel('Language').selectOption('zh');
    await page.locator('h1', { hasText: '概览' }).waitFor();
    await page.waitForFunction(() => document.documentElement.lang === 'zh-CN');
    await page.reload();
    await page.locator('h1', { hasText: '概览' }).waitFor();
    await looks('light');
    for (const language of ['zh', 'en']) {
        await page.locator('#language').selectOption(language);
        for (const look of ['light', 'dark']) {
            await page.locator('#theme').selectOption(look);
            await looks(look);
            for (const [route, shown] of [['#/', '.happened li'], ['#/sessions', 'tbody tr'], [`#/sessions/${handle}`, '[data-step]']]) {
                await page.evaluate((hash) => (location.hash = hash), route);
                await page.locator(shown).first().waitFor();
                await findings(page, `${route} in ${language}, ${look}`);
            }
            say(`no findings in ${language}, ${look}`);
        }
    }
    // A browser that speaks Chinese begins so, and the first page that it sees is without findings, too.
    const chinese = await given.open({ locale: 'zh-CN' });
    await chinese.goto(`${given.url}/ui/`);
    await chinese.locator('h1', { hasText: /概览|运维/ }).waitFor();
    await findings(chinese, 'the first page');
    await checked(page);
}

/** Whatever can be done by mouse is reached by Tab, in an order, and is seen to have the focus. */
export async function keyboard({ rest: [id], ...given }) {
    const page = await signIn(given);
    await isReady(page, id);
    await page.reload();
    await isReady(page, id);
    await page.keyboard.press('Tab');
    const skip = page.locator('.skip');
    assert.ok(await skip.evaluate((element) => element === document.activeElement), 'first of all, past the head');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'main');
    await page.evaluate(() => (document.activeElement instanceof HTMLElement ? document.activeElement.blur() : undefined));
    const wanted = await page.evaluate(() => {
        const all = [...document.querySelectorAll('a[href], button, select, input, [tabindex="0"]')];
        all.forEach((element, place) => (element.id ||= `place-${place}`));
        return all.filter((element) => element.getClientRects().length).map((element) => element.id);
    });
    assert.ok(wanted.length >= 10, `${wanted}`);
    const reached = new Set();
    for (let count = 0; count < 3 * wanted.length; count += 1) {
        await page.keyboard.press('Tab');
        const at = await page.evaluate(() => {
            const element = document.activeElement;
            const style = element && element !== document.body ? getComputedStyle(element) : null;
            return { id: element?.id ?? '', isShown: style ? style.outlineStyle !== 'none' : true };
        });
        assert.ok(at.isShown, `the focus on ${at.id} is not seen`);
        reached.add(at.id);
    }
    assert.deepEqual(wanted.filter((one) => !reached.has(one)), [], 'not reached by Tab');
    await page.getByRole('link', { name: 'Sessions', exact: true }).focus();
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.activeElement?.tagName === 'H1');
    await checked(page);
}

/** The policy holds: what somebody would put into the page does not run. */
export async function policy({ wrong, ...given }) {
    const page = await signIn(given);
    await checked(page);
    assert.deepEqual(wrong, [], 'until here the page itself has broken nothing');
    await page.evaluate(() => {
        const script = document.createElement('script');
        const look = document.createElement('p');
        const inserts = [
            () => (script.textContent = 'globalThis.hasRun = true'),
            () => document.body.append(script),
            () => look.setAttribute('onclick', 'globalThis.hasRun = true'),
            () => (look.innerHTML = '<img src=x onerror="globalThis.hasRun = true">'),
        ];
        for (const insert of inserts) {
            // Trusted Types: most of them do not get even that far.
            try { insert(); } catch { /* as it should be */ }
        }
        look.setAttribute('style', 'color: red');
        document.body.append(look);
        look.click();
        const image = document.createElement('img');
        image.src = 'https://elsewhere.example/picture.png';
        document.body.append(image);
    });
    await page.waitForFunction(() => globalThis.violations.some((one) => one.startsWith('img-src')));
    const violations = await page.evaluate(() => globalThis.violations.join('\n'));
    assert.match(violations, /style-src/);
    assert.match(violations, /script-src|require-trusted-types-for/);
    assert.equal(await page.evaluate(() => globalThis.hasRun), undefined);
    assert.ok(wrong.length, 'the browser says so');
    wrong.length = 0;
}

/** The pictures of the README. */
export async function pictures({ rest: [folder, handle], ...given }) {
    const page = await signIn(given);
    const shoot = async (name, height) => {
        await page.setViewportSize({ width: 1280, height });
        await page.evaluate(() => document.activeElement?.blur());
        await page.waitForTimeout(1500);
        await page.screenshot({ path: `${folder}/${name}.png` });
    };
    await page.locator('.happened li.moved').first().waitFor();
    await page.mouse.move(0, 0);
    await shoot('dashboard-light-en', 1500);
    await page.getByLabel('Theme').selectOption('dark');
    await page.getByLabel('Language').selectOption('zh');
    await shoot('dashboard-dark-zh', 1500);
    await page.evaluate((hash) => (location.hash = hash), `#/sessions/${handle}`);
    await page.locator('[data-step]').first().waitFor();
    await page.locator('#language').selectOption('en');
    await page.locator('#theme').selectOption('light');
    await shoot('session-light-en', 800);
    await page.evaluate(() => (location.hash = '#/sessions'));
    await page.locator('tbody tr').first().waitFor();
    await page.locator('#language').selectOption('zh');
    await shoot('sessions-light-zh', 800);
}
