"""Simplified Chinese to traditional, for the characters that the generated conversations use.

Character by character: where one simplified character stands for several traditional ones, the one that fits our
sentences is taken, and characters that need the context (such as the measure word for animals) stay as they are.
"""

SIMPLIFIED = (
    "万业东丢两严个为丽么义乌乐书买于云亚从仓们会伞伟伦余儿兰关兴养兽内写军农冯凉减几凯刘刚别剂剧办务动医华协单卖卢历厦厨参发叶号后吕吗听启吴员喽团园围国图圆坏块声处复头妈孙学宁实宫对导寿尔岁岚岛师帮广庆库"
    "开张强当录径总戏户护拥据摄数断无旧时显晓机权条来杨杰树样桥梦楼欢气汉汤没泽浅济浏涛渔温满滨澜灯点烧热爱爷猫现瑶电画盐码确离种称笼筑筝篮粽红约纳纽线练终绍经结给络统继续维绿缀缓编缝网罗职脸腊艳节苏苹范荐"
    "药莲萧萨葱蒋蓝装见览觉计订认让训议记讲许设证识诉词译诗话语说请诺读谁调谢谭贝财贵费贺贾赚赢赵车轩轮软载辉输边过运还这远连邓邹邻郑释里钟钢钥钱铁银链锅错键镜长门闫问闲间闻阳陆陈难静韦韩页项顾预题颜风飞饨"
    "饭饮饺饼馄马验鱼鲸鸡鸭鹉鹦黄龄龙龚龟"
)
TRADITIONAL = (
    "萬業東丟兩嚴個為麗麼義烏樂書買於雲亞從倉們會傘偉倫餘兒蘭關興養獸內寫軍農馮涼減幾凱劉剛別劑劇辦務動醫華協單賣盧歷廈廚參發葉號後呂嗎聽啟吳員嘍團園圍國圖圓壞塊聲處復頭媽孫學寧實宮對導壽爾歲嵐島師幫廣慶庫"
    "開張強當錄徑總戲戶護擁據攝數斷無舊時顯曉機權條來楊傑樹樣橋夢樓歡氣漢湯沒澤淺濟瀏濤漁溫滿濱瀾燈點燒熱愛爺貓現瑤電畫鹽碼確離種稱籠築箏籃糉紅約納紐線練終紹經結給絡統繼續維綠綴緩編縫網羅職臉臘豔節蘇蘋範薦"
    "藥蓮蕭薩蔥蔣藍裝見覽覺計訂認讓訓議記講許設證識訴詞譯詩話語說請諾讀誰調謝譚貝財貴費賀賈賺贏趙車軒輪軟載輝輸邊過運還這遠連鄧鄒鄰鄭釋裡鐘鋼鑰錢鐵銀鏈鍋錯鍵鏡長門閆問閒間聞陽陸陳難靜韋韓頁項顧預題顏風飛飩"
    "飯飲餃餅餛馬驗魚鯨雞鴨鵡鸚黃齡龍龔龜"
)
TABLE = str.maketrans(SIMPLIFIED, TRADITIONAL)


def to_traditional(text: str) -> str:
    return text.translate(TABLE)
