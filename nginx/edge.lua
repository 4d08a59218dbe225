-- Keeps a client's connection while the instance behind it changes.
--
-- Some clients take the end of their event stream for the end of their session (the Python SDK over HTTP+SSE), and some fail the
-- calls that are in flight then (mcp-remote). So nginx itself is the client of the instance: when that one breaks off, hangs or
-- drains, another one is asked for the rest with `Last-Event-ID`, and the client sees nothing of it.
--
-- It speaks HTTP by itself, since Debian 12 has no package of a client library for it. What it reads is what mcp-router writes:
-- lines end with LF, an event begins with its `id:` if it has one, and comments stand between events. docs/decisions/0018 says more.

local _M = {}

local ffi = require "ffi"
local get_request = require("resty.core.base").get_request
local byte, find, format, lower, match, sub = string.byte, string.find, string.format, string.lower, string.match, string.sub
local concat, min, random = table.concat, math.min, math.random
local now, print, flush, sleep = ngx.now, ngx.print, ngx.flush, ngx.sleep

-- What can be set by `configure`; times in seconds, sizes in bytes.
local settings = {
    -- The instances, as "host:port"; the same as in `upstream`.
    instances = {},
    -- The same client begins at the same instance, by the rule of nginx's ip_hash; otherwise at each in turn.
    ip_hash = true,
    -- Until a connection is there; as proxy_connect_timeout.
    connect = 1,
    -- Until the head of the answer is there; as proxy_read_timeout. For a client that waits for its first byte.
    head = 45,
    -- The same when a stream is gone on with: above what an instance needs to say that Redis is away (REDIS_WAIT, 3 s, and then
    -- a last try of REDIS_TIMEOUT, 2 s).
    again = 10,
    -- An instance that writes nothing for so long hangs: three of its heartbeats (MCP_HEARTBEAT, 15 s).
    silence = 45,
    -- A comment goes to the client as often while no instance does it.
    heartbeat = 15,
    -- All instances were asked in vain: pause before the next round, doubled up to the second, each made up to half longer or
    -- shorter by chance.
    pause = 0.05,
    longest_pause = 1,
    -- Then the client's stream is broken off, and the client may know better.
    patience = 60,
    -- A connection that has lasted so long was a good one: time and pauses count anew.
    good = 2,
    -- Bytes of an event that are kept until it is whole. A longer one goes out as it comes, and if its instance dies under it
    -- the client's stream breaks.
    event = 1048576,
    -- Bytes of an answer that is no stream that are kept until it is whole: until then another instance can be asked.
    answer = 262144,
    -- Idle connections to an instance, and for how long (below the 75 s after which an instance closes them).
    idle = 64,
    idle_time = 60,
    -- After a reload the old worker breaks its streams off within this time, so that their clients come to the new one. Those
    -- of clients that would not come back stay until they end, or until worker_shutdown_timeout.
    handover = 10,
    stays = "python httpx aiohttp fastmcp",
    -- Off: an event waits until the client has acknowledged the one before, as TCP does by itself. For tests.
    nodelay = true,
    -- Off: a stream ends with its instance, as behind a plain proxy. For tests.
    reattach = true,
}

-- How often a stream that waits looks whether its worker is to end.
local LOOK = 5
-- Bytes of a response's head at most, and of the line before a chunk.
local HEAD, CHUNK_HEAD = 65536, 1024
local READ = 16384
local HEARTBEAT = ": hb\n"
-- What the line before a chunk says, of chunks that come with one read of the socket's buffer (lua_socket_buffer_size, a page):
-- LuaJIT compiles this, and not `tonumber` with a base.
local SIZES = {}
for size = 1, 4096 do SIZES[format("%x", size)], SIZES[format("%X", size)] = size, size end

-- Headers that are of one connection, or that only the outermost proxy may set.
local OURS = {
    ["connection"] = true, ["keep-alive"] = true, ["proxy-connection"] = true, ["te"] = true, ["trailer"] = true,
    ["transfer-encoding"] = true, ["upgrade"] = true, ["http2-settings"] = true, ["expect"] = true, ["host"] = true,
    ["content-length"] = true, ["forwarded"] = true, ["x-forwarded-for"] = true, ["x-forwarded-host"] = true,
    ["x-forwarded-proto"] = true, ["x-forwarded-prefix"] = true, ["x-mcp-request-try"] = true, ["x-request-id"] = true,
    ["x-mcp-edge"] = true, ["x-mcp-principal"] = true,
}
-- Of a response, as nginx hides them, too; the length is taken from what is sent.
local HIDDEN = {
    ["connection"] = true, ["keep-alive"] = true, ["transfer-encoding"] = true, ["trailer"] = true, ["upgrade"] = true,
    ["content-length"] = true, ["date"] = true, ["server"] = true, ["x-mcp-edge"] = true, ["x-accel-buffering"] = true,
    ["x-accel-expires"] = true, ["x-accel-redirect"] = true, ["x-accel-limit-rate"] = true, ["x-accel-charset"] = true,
}
-- Of a request, where a stream is gone on with.
local OF_THE_FIRST = { ["accept"] = true, ["content-type"] = true, ["last-event-id"] = true, ["mcp-session-id"] = true }

local stays = {}
local turn = 0
-- Of this worker: it has been prepared, and it is to end.
local ready, exiting = false, false

-- For init_by_lua_block. A name that is not a setting is a mistake.
function _M.configure(given)
    for name, value in pairs(given) do
        assert(settings[name] ~= nil, "edge.lua has no setting " .. name)
        settings[name] = value
    end
    assert(#settings.instances > 0, "edge.lua needs instances")
    for at, instance in ipairs(settings.instances) do
        local host, port = match(instance, "^(.+):(%d+)$")
        assert(host, "an instance is host:port, not " .. instance)
        settings.instances[at] = { host = host, port = tonumber(port), name = instance }
    end
    for word in settings.stays:gmatch("%S+") do stays[#stays + 1] = lower(word) end
end

-- --- One exchange with an instance ---------------------------------------------------------------------------------------

-- Reads more into the buffer; nil and "timeout" or "closed" otherwise.
local function fill(conn)
    local data, err = conn.sock:receiveany(READ)
    if not data then return nil, err == "timeout" and err or "closed" end
    local kept = conn.buf
    conn.buf = kept == "" and data or kept .. data
    return true
end

local function parse_head(text)
    local status = tonumber(match(text, "^HTTP/1%.%d (%d%d%d)"))
    if not status then return nil end
    local head = { status = status, names = {}, values = {} }
    for name, value in text:gmatch("\r\n([^:\r\n]+):[ \t]*([^\r\n]*)") do
        head.names[#head.names + 1] = name
        head.values[#head.values + 1] = match(value, "^(.-)[ \t]*$")
        head[lower(name)] = head.values[#head.values]
    end
    return head
end

local function read_head(conn)
    while true do
        local stop = find(conn.buf, "\r\n\r\n", 1, true)
        if stop then
            local head = parse_head(sub(conn.buf, 1, stop - 1))
            if not head then return nil, "closed" end
            conn.buf = sub(conn.buf, stop + 4)
            -- An interim answer is none.
            if head.status >= 200 then return head end
        elseif #conn.buf > HEAD then
            return nil, "closed"
        else
            local ok, err = fill(conn)
            if not ok then return nil, err end
        end
    end
end

-- Sends a request and reads the head of its answer. nil and the reason: `taken` says whether it may have been received.
local function ask(instance, request, body, timeout)
    for _ = 1, 3 do
        local sock = ngx.socket.tcp()
        sock:settimeouts(settings.connect * 1000, timeout * 1000, timeout * 1000)
        local ok = sock:connect(instance.host, instance.port, { pool_size = settings.idle })
        if not ok then return nil, false end
        local conn = { sock = sock, buf = "", left = 0, instance = instance }
        local reused = sock:getreusedtimes() > 0
        local head
        if sock:send(body and { request, body } or request) then head = read_head(conn) end
        if head then
            conn.head = head
            conn.chunked = find(lower(head["transfer-encoding"] or ""), "chunked", 1, true) ~= nil
            if not conn.chunked then conn.left = tonumber(head["content-length"]) or math.huge end
            if head.status == 204 or head.status == 304 then conn.chunked, conn.left = false, 0 end
            return conn
        end
        sock:close()
        -- An idle connection may have been closed just now: that says nothing of the instance.
        if not reused then return nil, true end
    end
    return nil, true
end

-- Gives the connection back, if its body was read to the end.
local function done(conn)
    local closes = lower(conn.head["connection"] or "") == "close"
    if conn.ended and conn.buf == "" and not closes then
        conn.sock:setkeepalive(settings.idle_time * 1000, settings.idle)
    else
        conn.sock:close()
    end
end

-- What there is of a chunked body. nil, "more" when all of it has been taken; nil, "end" or "closed".
local function chunks(conn)
    local buf, pos, left, first, parts = conn.buf, 1, conn.left, nil, nil
    local why = "more"
    while true do
        if left > 0 then
            local have = #buf - pos + 1
            if have <= 0 then break end
            local take = min(left, have)
            local data = sub(buf, pos, pos + take - 1)
            pos, left = pos + take, left - take
            if not first then
                first = data
            elseif parts then
                parts[#parts + 1] = data
            else
                parts = { first, data }
            end
            conn.closing = left == 0
        else
            if conn.closing then
                if #buf - pos < 1 then break end
                if sub(buf, pos, pos + 1) ~= "\r\n" then why = "closed" break end
                pos, conn.closing = pos + 2, false
            end
            local stop = find(buf, "\r\n", pos, true)
            if not stop then
                if #buf - pos > CHUNK_HEAD then why = "closed" end
                break
            end
            local size = tonumber(match(buf, "^%x+", pos) or "", 16)
            if not size then why = "closed" break end
            if size == 0 then
                -- An instance sends no trailers.
                local over = sub(buf, stop + 2, stop + 3)
                if over == "\r\n" then
                    pos, why, conn.ended = stop + 4, "end", true
                elseif over ~= "" and over ~= "\r" then
                    why = "closed"
                end
                break
            end
            pos, left = stop + 2, size
        end
    end
    conn.buf, conn.left = sub(buf, pos), left
    conn.clear = left == 0 and not conn.closing and not conn.ended and pos > #buf
    if first then return parts and concat(parts) or first end
    return nil, why
end

-- The data of one chunk, if that is all there is.
local function one_chunk(buf)
    local stop = find(buf, "\r\n", 1, true)
    local size = stop and SIZES[sub(buf, 1, stop - 1)]
    if size and #buf == stop + size + 3 and byte(buf, -1) == 10 and byte(buf, -2) == 13 then
        return sub(buf, stop + 2, -3)
    end
end

-- The next piece of the body; nil and "end", "timeout" or "closed".
local function piece(conn)
    -- The usual case, and the cheapest: between two chunks.
    if conn.clear then
        local data, err = conn.sock:receiveany(READ)
        if not data then return nil, err == "timeout" and err or "closed" end
        local only = one_chunk(data)
        if only then return only end
        conn.buf, conn.clear = data, false
    end
    while true do
        if conn.ended then return nil, "end" end
        if conn.chunked then
            local data, why = nil, "more"
            if conn.buf ~= "" then data, why = chunks(conn) end
            if data then return data end
            if why ~= "more" then return nil, why end
        elseif conn.left == 0 then
            conn.ended = true
            return nil, "end"
        elseif conn.buf ~= "" then
            local data = conn.left < #conn.buf and sub(conn.buf, 1, conn.left) or conn.buf
            conn.buf, conn.left = sub(conn.buf, #data + 1), conn.left - #data
            return data
        end
        local ok, err = fill(conn)
        if not ok then
            -- Without a length a body ends with its connection.
            if err == "closed" and not conn.chunked and conn.left == math.huge then return nil, "end" end
            return nil, err
        end
    end
end

-- --- Requests ---------------------------------------------------------------------------------------------------------------

-- Where the client's stream begins: by the rule of nginx's ip_hash, so that its POSTs meet the same instance.
local function begin_at()
    local count = #settings.instances
    if not settings.ip_hash then
        turn = turn % count + 1
        return turn
    end
    local address = ngx.var.binary_remote_addr
    local hash = 89
    for at = 1, #address == 4 and 3 or #address do hash = (hash * 113 + byte(address, at)) % 6271 end
    return hash % count + 1
end

-- The head of the request as the instance gets it. `cursor`: it goes on after there.
local function request_head(method, length, cursor, session)
    local var = ngx.var
    -- After the rewriting of a prefix the path is decoded.
    local path = var.mcp_prefix == "" and var.request_uri
        or ngx.escape_uri(var.uri, 0) .. (var.is_args or "") .. (var.args or "")
    local lines = {
        format("%s %s HTTP/1.1", method, path),
        "X-Forwarded-For: " .. var.remote_addr,
        "X-Forwarded-Proto: " .. var.scheme,
        "X-MCP-Request-Try: " .. var.request_id,
        "X-Request-ID: " .. var.request_id,
        "X-MCP-Edge: " .. (cursor and "again" or "open"),
    }
    local function add(line) lines[#lines + 1] = line end
    if var.http_host then
        add("Host: " .. var.http_host)
        add("X-Forwarded-Host: " .. var.http_host)
    end
    if var.mcp_prefix ~= "" then add("X-Forwarded-Prefix: " .. var.mcp_prefix) end
    if var.mcp_principal ~= "" then add("X-MCP-Principal: " .. var.mcp_principal) end
    if length then add("Content-Length: " .. length) end
    if cursor then
        add("Accept: text/event-stream")
        add("Last-Event-ID: " .. cursor)
        if session then add("Mcp-Session-Id: " .. session) end
    end
    for name, value in pairs(ngx.req.get_headers(0, true)) do
        local known = lower(name)
        if not OURS[known] and not (cursor and OF_THE_FIRST[known]) then
            for _, one in ipairs(type(value) == "table" and value or { value }) do add(name .. ": " .. one) end
        end
    end
    return concat(lines, "\r\n") .. "\r\n\r\n"
end

-- All of the request's body, which client_max_body_size bounds.
local function read_body()
    ngx.req.read_body()
    local body = ngx.req.get_body_data()
    if body then return body end
    local name = ngx.req.get_body_file()
    if not name then return "" end
    local file = assert(io.open(name, "rb"))
    body = file:read("*a")
    file:close()
    return body
end

-- --- The client's side ------------------------------------------------------------------------------------------------------

-- No clean end: the client is to come back.
local function abort() return ngx.exit(444) end

ffi.cdef [[
    typedef struct { void *data, *read, *write; int fd; } mcp_edge_connection;
    typedef struct { uint32_t signature; mcp_edge_connection *connection; } mcp_edge_request;
    int setsockopt(int fd, int level, int name, const void *value, unsigned size);
]]
local on = ffi.new("int[1]", 1)

-- Each event goes out at once, although the client has not acknowledged the one before. nginx sees to that where proxy_pass is
-- unbuffered, with TLS and over HTTP/2, and not for what Lua writes to the first request of a connection; nor has Lua a word
-- for it. So the socket is taken from where nginx has always kept it: the beginning of a request and of a connection.
local function without_delay()
    if not settings.nodelay then return end
    local request = ffi.cast("mcp_edge_request *", get_request())
    if request.signature == 0x50545448 then ffi.C.setsockopt(request.connection.fd, 6, 1, on, 4) end -- "HTTP", TCP_NODELAY
end

local function send_head(head, length)
    ngx.status = head.status
    local seen = {}
    for at, name in ipairs(head.names) do
        local known = lower(name)
        if not HIDDEN[known] then
            if seen[known] then
                local all = seen[known]
                all[#all + 1] = head.values[at]
                ngx.header[name] = all
            else
                seen[known] = { head.values[at] }
                ngx.header[name] = head.values[at]
            end
        end
    end
    if length then ngx.header["Content-Length"] = length end
end

-- No instance answers: what nginx.conf says then, and for a POST that one has taken what it says of that.
local function no_answer(taken)
    if ngx.req.get_method() == "GET" or not taken then return ngx.exec("@drop_stream") end
    ngx.status = 502
    ngx.header["Content-Type"] = "application/json"
    print('{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"a router instance took the request and did not answer;',
        ' it may have been executed","data":{"reason":"instance_lost","retry":false}}}\n')
end

-- The answer as it comes, of an instance that is asked nothing more.
local function pass(conn)
    local length = conn.head["content-length"]
    send_head(conn.head, length)
    without_delay()
    while true do
        local data, why = piece(conn)
        if not data then
            done(conn)
            if why == "end" then return end
            return abort()
        end
        if not print(data) or not flush(true) then return abort() end
    end
end

-- The last id in whole events, from their beginning on.
local function last_id(text)
    local at, found = 1, find(text, "\nid: ", 1, true)
    while found do at, found = found + 1, find(text, "\nid: ", found + 5, true) end
    return match(text, "^id: ([^\n]*)", at)
end

-- How much of it is whole events and comments. `within`: it begins within an event.
local function whole(text, within)
    local stop = 0
    if byte(text, -1) == 10 and byte(text, -2) == 10 then return #text end
    local from = 1
    while true do
        local found = find(text, "\n\n", from, true)
        if not found then break end
        stop, from = found + 1, found + 2
    end
    while not (within and stop == 0) and byte(text, stop + 1) == 58 do -- ':'
        local line = find(text, "\n", stop + 1, true)
        if not line then break end
        stop = line
    end
    return stop
end

-- The client has been shown the event with this id; its first request is needed no more.
local function shown(stream, id)
    stream.cursor, stream.latest, stream.request, stream.body = id, nil, nil, nil
end

-- Takes what has come; what of it is to be written now.
local function take(stream, data)
    if stream.kept ~= "" then data = stream.kept .. data end
    local stop = whole(data, stream.long)
    if stream.long then
        -- The rest of an event that was too long to be kept; one LF of its end may have gone out with what came before.
        if stop == 0 and stream.at_line and byte(data, 1) == 10 then stop = 1 end
        if stop == 0 then
            stream.at_line = byte(data, -1) == 10
            return data
        end
        -- Its id was in its first bytes; a later event's counts more.
        local id = last_id(sub(data, 1, stop)) or stream.long
        if id ~= "" then shown(stream, id) else stream.unnumbered = true end
        stream.long = nil
    elseif stop > 0 then
        local text = stop == #data and data or sub(data, 1, stop)
        local id = last_id(text)
        if id then
            shown(stream, id)
        elseif find(text, "data: ", 1, true) then
            stream.unnumbered = true
        end
    elseif #data > settings.event then
        stream.long, stream.at_line = last_id(data) or "", byte(data, -1) == 10
        stream.kept = ""
        return data
    end
    if stop == #data then
        stream.kept = ""
        return data
    end
    stream.kept = sub(data, stop + 1)
    return sub(data, 1, stop)
end

-- Whether that is all that is to be known of it: whole events, of which the first has an id, and nothing is kept from before.
local function is_plain(stream, data)
    return byte(data, 1) == 105 and byte(data, 2) == 100 and byte(data, 3) == 58 and byte(data, 4) == 32
        and byte(data, -1) == 10 and byte(data, -2) == 10 and stream.cursor and stream.kept == "" and not stream.long
end

local function tell(text) return print(text) and flush(true) end

-- The next instance that goes on with the stream, whose client was last told something at `told`; nil and the reason, in one
-- word, when the client is to be let go.
local function attach_again(stream, told)
    if stream.long then return nil, "long_event" end
    if stream.latest then shown(stream, last_id(stream.latest)) end
    local request, body
    if stream.cursor then
        request = request_head("GET", nil, stream.cursor, stream.session)
    elseif stream.unnumbered or stream.begins then
        -- What the client has been shown has no place: there is nothing to go on after.
        return nil, "no_cursor"
    else
        request, body = stream.request, stream.body
    end
    local instances = settings.instances
    if not stream.since then stream.since, stream.pause, stream.tries = now(), settings.pause, 0 end
    while now() - stream.since < settings.patience do
        if stream.tries > 0 and stream.tries % #instances == 0 then
            sleep(stream.pause * (0.5 + random()))
            stream.pause = min(stream.pause * 2, settings.longest_pause)
        end
        stream.tries = stream.tries + 1
        if now() - told >= settings.heartbeat then
            told = now()
            if not tell(HEARTBEAT) then return nil, "client" end
        end
        if exiting and stream.leaves then return nil, "reload" end
        stream.at = stream.at % #instances + 1
        local conn = ask(instances[stream.at], request, body, settings.again)
        if conn then
            local head = conn.head
            local goes_on = head.status == 200 and head["x-mcp-edge"]
                and find(head["content-type"] or "", "text/event-stream", 1, true)
            if goes_on then
                stream.count = stream.count + 1
                stream.seen = format("%s again=%d", instances[stream.at].name, stream.count)
                ngx.var.mcp_edge = stream.seen
                return conn
            end
            conn.sock:close()
            -- Only one that cannot now is no answer: 404 says that the session is over.
            if head.status < 500 then return nil, "status_" .. head.status end
        end
    end
    return nil, "nobody"
end

-- Shows the client an event stream, on whatever connections to instances.
local function hold(stream, conn)
    local head = conn.head
    send_head(head)
    without_delay()
    if not ngx.send_headers() or not flush(true) then return abort() end
    stream.kept, stream.count, stream.seen = "", 0, ngx.var.mcp_edge
    local function give_up(why)
        ngx.var.mcp_edge = stream.seen .. " broken=" .. why
        return abort()
    end
    local holds = settings.reattach and head["x-mcp-edge"]
    while true do
        conn.sock:settimeout(LOOK * 1000)
        -- Time is counted in looks, since asking for it would be a good part of what an event costs.
        local began, silent, ends = now(), 0, nil
        while true do
            local data, why = piece(conn)
            if data then
                silent = 0
                local text = data
                -- Its last id is looked for when it is needed. What is kept for that is no longer than a read.
                if #data <= READ and is_plain(stream, data) then stream.latest = data else text = take(stream, data) end
                -- A client that takes nothing for so long that nginx gives it up (send_timeout) has not seen the end.
                if text ~= "" and not tell(text) then return give_up("client") end
            elseif why == "end" then
                -- Of a held stream an instance says by this that it is over.
                if stream.kept ~= "" then return give_up("half_an_event") end
                return done(conn)
            elseif why == "closed" then
                break
            else
                silent = silent + LOOK
                if silent >= settings.silence then break end
            end
            if stream.leaves and exiting then
                ends = ends or now() + random() * settings.handover
                if now() >= ends then return give_up("reload") end
            end
        end
        conn.sock:close()
        if not holds then return give_up("not_held") end
        if now() - began >= settings.good then stream.since = nil end
        -- What is not whole comes again.
        stream.kept = ""
        local reason
        conn, reason = attach_again(stream, now() - silent)
        if not conn then return give_up(reason) end
    end
end

-- Whether its client comes back when its worker breaks the stream off. A POST ends soon by itself.
local function leaves(method)
    if method ~= "GET" then return false end
    if not find(ngx.var.uri, "^/sse") then return true end
    local agent = lower(ngx.var.http_user_agent or "")
    for _, word in ipairs(stays) do
        if find(agent, word, 1, true) then return false end
    end
    return true
end

-- Once in a worker. A timer of a year, which nginx runs before its time when the worker is to end: `ngx.worker.exiting` would
-- have to be asked at each event.
local function prepare()
    -- Workers would all draw the same.
    math.randomseed(ngx.worker.pid() + now() * 1000)
    ready = ngx.timer.at(31536000, function(early) ready, exiting = early, early end)
end

local function answer(method)
    if not ready then prepare() end
    local body = method == "POST" and read_body() or nil
    local instances = settings.instances
    local at, taken = begin_at(), false
    local request = request_head(method, body and #body)
    for try = 1, #instances do
        local conn, was_taken = ask(instances[at], request, body, settings.head)
        taken = taken or was_taken == true
        if conn then
            ngx.var.mcp_edge = instances[at].name
            local head, is_last = conn.head, try == #instances
            local length = tonumber(head["content-length"])
            if (head.status == 502 or head.status == 503) and not is_last then
                conn.sock:close()
            elseif head.status == 200 and find(head["content-type"] or "", "text/event-stream", 1, true) then
                local session = head["mcp-session-id"]
                -- The streams of several messages in one array have several cursors.
                if body and find(body, "^%s*%[") then return pass(conn) end
                return hold({
                    request = request, body = body, at = at, leaves = leaves(method),
                    session = session or ngx.var.http_mcp_session_id, begins = session ~= nil,
                }, conn)
            elseif length and length <= settings.answer then
                -- Whole before any of it is shown: cut off, it is asked for elsewhere.
                local parts, why = {}, nil
                repeat
                    parts[#parts + 1], why = piece(conn)
                until why
                done(conn)
                if why == "end" then
                    send_head(head, length)
                    print(parts)
                    return
                end
            else
                return pass(conn)
            end
        end
        at = at % #instances + 1
    end
    return no_answer(taken)
end

-- For access_by_lua_block. What is neither GET nor a POST of Streamable HTTP goes on to proxy_pass.
function _M.serve()
    local method = ngx.req.get_method()
    if method ~= "GET" and (method ~= "POST" or find(ngx.var.uri, "^/sse")) then return end
    local ok, err = xpcall(answer, debug.traceback, method)
    if ok then
        if not ngx.headers_sent then ngx.send_headers() end
        ngx.eof()
        return ngx.exit(200)
    end
    -- A mistake in this file. Not by ngx.log, whose lines quote the request, and with it ids.
    io.stderr:write("edge.lua: ", tostring(err), "\n")
    return ngx.headers_sent and abort() or ngx.exit(500)
end

return _M
