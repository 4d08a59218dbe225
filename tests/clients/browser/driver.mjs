// What a person does with the dashboard and sees there, in a real Chromium. One scenario a run:
//
//   node driver.mjs SCENARIO URL [ARGUMENT…]     MCP_TEST_TOKEN is the operator's token, MCP_TEST_CHROMIUM the program (/usr/bin/chromium)
//
// It says what it waits for, one line each, and ends with 0 when all of it was seen. Any word of the browser's console, any
// request that goes elsewhere and any violation of the page's policy is a failure.
import { chromium } from 'playwright-core';
import { death, drain, keyboard, languages, policy, pictures, remove, timeline } from './scenarios.mjs';

const scenarios = { death, drain, keyboard, languages, policy, pictures, remove, timeline };
const [name, url, ...rest] = process.argv.slice(2);
const scenario = scenarios[name];
if (!scenario) throw new Error(`scenarios: ${Object.keys(scenarios).join(', ')}`);

const browser = await chromium.launch({
    executablePath: process.env.MCP_TEST_CHROMIUM ?? '/usr/bin/chromium',
    // Its own sandbox wants to be no root.
    args: process.getuid?.() === 0 ? ['--no-sandbox'] : [],
});
let code = 1;
try {
    const wrong = [];
    const open = async (options = {}) => {
        const context = await browser.newContext({ viewport: { width: 1280, height: 960 }, locale: 'en-US', ...options });
        const page = await context.newPage();
        page.setDefaultTimeout(30_000);
        page.on('pageerror', (error) => wrong.push(`error: ${error.message}`));
        page.on('console', (message) => {
            // The browser's own words about requests that met a dead instance: the page says it better.
            if (!/Failed to load resource/.test(message.text())) wrong.push(`console: ${message.text()}`);
        });
        page.on('request', (request) => {
            if (new URL(request.url()).origin !== new URL(url).origin) wrong.push(`request to ${request.url()}`);
        });
        await page.addInitScript(() => {
            globalThis.violations = [];
            document.addEventListener('securitypolicyviolation', (event) => globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
        });
        return page;
    };
    await scenario({ open, url, wrong, token: process.env.MCP_TEST_TOKEN ?? '', rest, say: (line) => console.log(line) });
    if (wrong.length) throw new Error(wrong.join('\n'));
    console.log('seen');
    code = 0;
} catch (error) {
    console.error(error);
} finally {
    await browser.close();
}
process.exit(code);
